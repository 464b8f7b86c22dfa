using System.Numerics.Tensors;
using Peft.Engine.Steps;
using Peft.Models.Layers;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Models.Steps;

/// <summary>What was recorded of a stack: the operations, and all memory that they read and write.</summary>
/// <param name="Operations">The operations.</param>
/// <param name="Input">Takes the stack's input.</param>
/// <param name="Output">The stack's output.</param>
/// <param name="Kept">All tensors that the operations point into.</param>
internal sealed record StepOperations(IReadOnlyList<StepOperation> Operations, Tensor Input, StackOutput Output, IReadOnlyList<Tensor> Kept);

/// <summary>A stack of blocks for one token, to be run again.</summary>
/// <param name="blocks">The blocks.</param>
/// <param name="weights">What they compute with: where any of it changes (a merge, a training between two tokens), what was recorded may be another model's, or freed.</param>
/// <param name="selection">The adapters that act.</param>
/// <param name="given">How many parts the pass was given.</param>
/// <param name="operations">What was recorded.</param>
internal sealed class StepRecording(IReadOnlyList<Module> blocks, Parameter[] weights, AdapterSelection selection, int given, StepOperations operations) : IDisposable
{
    // Kernels round at other places than some of the engine's operators.
    private const float Tolerance = 1e-3f;
    private const float ToleranceOfHalves = 0.1f;

    private readonly StepProgram _program = new(operations.Operations);
    private readonly long _versions = Versions(weights);

    /// <summary>Whether it is the stack of a pass.</summary>
    public bool Fits(IReadOnlyList<Module> otherBlocks, Tensor x, AdapterSelection otherSelection, int otherGiven) =>
        ReferenceEquals(blocks, otherBlocks)
        && given == otherGiven
        && x.dtype == operations.Input.dtype
        && x.size(1) == operations.Input.size(1)
        && (ReferenceEquals(selection, otherSelection) || selection.Order.SequenceEqual(otherSelection.Order))
        && _versions == Versions(weights);

    /// <summary>The stack's output.</summary>
    public StackOutput Run(Tensor x)
    {
        if (x.device_type == DeviceType.CPU)
        {
            TensorMemory.CopyTo(x, operations.Input.bytes, 0);
        }
        else
        {
            operations.Input.copy_(x);
        }

        _program.Run();
        return operations.Output with { Output = operations.Output.Output.clone(), Sides = operations.Output.SidesBy(static side => side.clone()) };
    }

    /// <summary>Whether it gives, but for rounding, what the stack gave.</summary>
    public bool Gives(Tensor x, Tensor expected)
    {
        using var scope = NewDisposeScope();
        var found = Run(x).Output;
        var (is_, was) = (found.to(ScalarType.Float32).cpu(), expected.to(ScalarType.Float32).cpu());
        var difference = TensorPrimitives.Distance(TensorMemory.Span<float>(is_), TensorMemory.Span<float>(was));
        return difference <= (x.dtype == ScalarType.Float32 ? Tolerance : ToleranceOfHalves) * TensorPrimitives.Norm<float>(TensorMemory.Span<float>(was));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _program.Dispose();
        foreach (var tensor in operations.Kept)
        {
            tensor.Dispose();
        }
    }

    // Each only rises.
    private static long Versions(Parameter[] weights)
    {
        long sum = 0;
        foreach (var weight in weights)
        {
            sum += weight.Version;
        }

        return sum;
    }
}
