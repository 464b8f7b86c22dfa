using Peft.Engine.Steps;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Steps;

/// <summary>
/// Takes down what layers compute of one token. Every input has to be what a recorded operation wrote: what came from anywhere else ends the
/// recording, as nobody would compute it again.
/// </summary>
internal sealed class StepRecorder : IDisposable
{
    private readonly List<StepOperation> _operations = [];
    private readonly List<Tensor> _kept = [];
    private readonly List<(nint Start, nint End)> _written = [];
    private readonly Tensor _input;
    private bool _isRefused;

    /// <param name="x">The stack's input.</param>
    /// <param name="memory">Whose recording it is.</param>
    /// <param name="kernels">Make its operations.</param>
    public StepRecorder(Tensor x, StepMemory memory, IStepKernels kernels)
    {
        Memory = memory;
        Kernels = kernels;
        _input = Keep(x);
        Wrote(x);
    }

    /// <summary>Whose recording it is.</summary>
    public StepMemory Memory { get; }

    /// <summary>Make its operations.</summary>
    public IStepKernels Kernels { get; }

    /// <summary>Ends the recording: something acts that there is no operation for.</summary>
    public void Refuse() => _isRefused = true;

    /// <summary>Whether an operation can be recorded; otherwise the recording is over.</summary>
    /// <param name="output">What it writes.</param>
    /// <param name="inputs">What it reads of the pass.</param>
    public bool Accepts(Tensor output, params ReadOnlySpan<Tensor?> inputs)
    {
        _isRefused = _isRefused || !Kernels.Serves(output);
        foreach (var input in inputs)
        {
            _isRefused = _isRefused || !(input is null || (input.dtype == output.dtype && IsWritten(input)));
        }

        return !_isRefused;
    }

    /// <summary>Records an operation that was accepted.</summary>
    /// <param name="operation">The operation; null ends the recording, as there is none for it.</param>
    /// <param name="output">What it writes.</param>
    /// <param name="reads">Memory that has to stay as long as the recording.</param>
    public void Add(StepOperation? operation, Tensor output, params ReadOnlySpan<Tensor?> reads)
    {
        if (operation is null)
        {
            Refuse();
            return;
        }

        Add([operation], output, reads);
    }

    /// <summary>Records operations that were accepted, which run in their order.</summary>
    public void Add(IReadOnlyList<StepOperation> operations, Tensor output, params ReadOnlySpan<Tensor?> reads)
    {
        _operations.AddRange(operations);
        Keep(output);
        Wrote(output);
        foreach (var read in reads)
        {
            if (read is not null)
            {
                Keep(read);
            }
        }
    }

    /// <summary>What was recorded of a whole stack; null where there is a gap.</summary>
    public StepOperations? Finish(StackOutput output)
    {
        if (_isRefused || output.Inputs is not null || !IsWritten(output.Output) || !output.AllSides.All(IsWritten))
        {
            return null;
        }

        var operations = new StepOperations([.. _operations], _input, output with { Output = Keep(output.Output), Sides = output.SidesBy(Keep) }, [.. _kept]);
        _operations.Clear();
        _kept.Clear();
        return operations;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _operations.ForEach(static operation => operation.Dispose());
        _kept.ForEach(static tensor => tensor.Dispose());
    }

    private Tensor Keep(Tensor tensor)
    {
        var handle = tensor.alias().DetachFromDisposeScope();
        _kept.Add(handle);
        return handle;
    }

    private void Wrote(Tensor tensor) => _written.Add(Range(tensor));

    private bool IsWritten(Tensor tensor)
    {
        if (!Kernels.Serves(tensor))
        {
            return false;
        }

        var (start, end) = Range(tensor);
        return _written.Exists(range => range.Start <= start && end <= range.End);
    }

    private (nint Start, nint End) Range(Tensor tensor)
    {
        var start = Kernels.Address(tensor);
        return (start, start + (nint)(tensor.NumberOfElements * tensor.ElementSize));
    }
}
