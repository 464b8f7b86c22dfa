using Peft.Adapters.Slots;
using Peft.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Holds a piece's own backward pass to autograd over the plain formula.</summary>
internal sealed class BackwardCheck : IDisposable
{
    private readonly DisposeScope _scope = NewDisposeScope();
    private readonly IDisposable _noGrad = no_grad();
    private readonly List<Tensor> _inputs = [];
    private readonly List<Parameter> _parameters = [];

    public BackwardCheck(long seed = 1)
    {
        Source = new Generator((ulong)seed);
    }

    public Generator Source { get; }

    /// <summary>Largest difference as a share of the largest expected value.</summary>
    public double Tolerance { get; init; } = 2e-5;

    public ScalarType Type { get; init; } = ScalarType.Float32;

    /// <summary>A random input that gets a gradient.</summary>
    public Tensor Input(params long[] shape)
    {
        var input = randn(shape, ScalarType.Float32, generator: Source).to(Type);
        _inputs.Add(input);
        return input;
    }

    /// <summary>Gives a parameter random weights.</summary>
    /// <param name="parameter">The parameter.</param>
    /// <param name="isTrained">Whether its gradient is compared.</param>
    /// <param name="type">Of the weights; null for the check's.</param>
    public Parameter Fill(Parameter parameter, bool isTrained = true, ScalarType? type = null)
    {
        parameter.Assign(randn([.. parameter.Shape], ScalarType.Float32, generator: Source).mul(0.3).to(type ?? Type));
        if (isTrained)
        {
            _parameters.Add(parameter);
            parameter.Gradient = zeros([.. parameter.Shape]);
        }

        return parameter;
    }

    /// <summary>Runs both and compares outputs and all gradients.</summary>
    /// <param name="pieces">The layer under test, given a context with a tape.</param>
    /// <param name="plain">The formula. Parameters are read through <c>Value</c>, inputs come in the order they were made, in float32.</param>
    /// <param name="context">Geometry of the pass.</param>
    public void Run(Func<ForwardContext, Tensor> pieces, Func<IReadOnlyList<Tensor>, Func<Parameter, Tensor>, Tensor> plain, ForwardContext? context = null)
    {
        // A piece may overwrite what it was given.
        var given = _inputs.Select(static input => input.to(ScalarType.Float32).clone()).ToArray();
        using var tape = new Tape();
        var probes = _inputs.Select(input =>
        {
            var probe = new Probe();
            tape.Record(probe, [], [input], trains: true);
            return probe;
        }).ToArray();
        var output = pieces((context ?? new ForwardContext()) with { Tape = tape });
        var weights = output.dim() == 0 ? ones([]) : randn(output.shape, ScalarType.Float32, generator: Source);
        tape.Backward(output, weights.to(output.dtype));
        Assert.Equal(0, tape.Count);

        using var grad = enable_grad();
        var leaves = given.Select(static input => input.detach().requires_grad_(true)).ToArray();
        var values = _parameters.ToDictionary(static parameter => parameter, static parameter => parameter.Data.detach().to(ScalarType.Float32).clone().requires_grad_(true));
        var expected = plain(leaves, parameter => values.TryGetValue(parameter, out var value) ? value : parameter.Data.to(ScalarType.Float32));
        TensorAssert.CloseToScale(expected.detach(), output, Tolerance, "output");
        var found = autograd.grad([expected], [.. leaves, .. values.Values], [weights]);
        for (var i = 0; i < leaves.Length; i++)
        {
            TensorAssert.CloseToScale(found[i], probes[i].Gradient!, Tolerance, $"gradient of input {i}");
        }

        for (var i = 0; i < _parameters.Count; i++)
        {
            TensorAssert.CloseToScale(found[leaves.Length + i], _parameters[i].Gradient!, Tolerance, $"gradient of {_parameters[i].Name}");
        }
    }

    public void Dispose()
    {
        _scope.Dispose();
        _noGrad.Dispose();
    }

    private sealed class Probe : Piece
    {
        public Tensor? Gradient { get; private set; }

        public override void Backward(PieceGradients gradients) => Gradient = gradients.Output().clone().MoveToOuterDisposeScope();
    }
}

/// <summary>A slot with the same low-rank changes in every pass.</summary>
internal sealed class FixedSlot(params LowRank[] changes) : Slot
{
    /// <summary>Whether the layer is sent through <see cref="Forward"/>, which multiplies its input by two.</summary>
    public bool ChangesInput { get; init; }

    public override Parameter? Overlay(ForwardContext context) => null;

    public override SlotPlan Plan(ForwardContext context) => new(changes, ChangesInput);

    public override Tensor Forward(Tensor x, ForwardContext context, Func<Tensor, ForwardContext, Tensor> baseProduct) => baseProduct(
        context.Tape is { } tape ? tape.Autograd(static inputs => inputs[0].mul(2), [x], []) : x.mul(2), context);
}
