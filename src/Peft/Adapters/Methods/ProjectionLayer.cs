using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods;

/// <summary>A layer between the shared projections: it trains b, a vector along its outputs, and d, one along the rows of A. What it adds is b ∘ (B z), with z made of d ∘ (A x).</summary>
internal abstract class ProjectionLayer : LayerAdapter
{
    private readonly ProjectionConfig _config;
    private readonly ProjectionAdapter _shared;
    private readonly Parameter _alongOutputs;
    private readonly Parameter _alongRows;

    /// <summary>Makes the vectors, by shape alone.</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="config">The configuration.</param>
    /// <param name="shared">The adapter that holds the projections.</param>
    /// <param name="rows">Rows of A.</param>
    protected ProjectionLayer(IAdaptable layer, ProjectionConfig config, ProjectionAdapter shared, int rows)
        : base(layer)
    {
        _config = config;
        _shared = shared;
        var prefix = config.PeftType.ToLowerInvariant();
        _alongOutputs = new Parameter($"{prefix}_lambda_b", [layer.Outputs]);
        _alongRows = new Parameter($"{prefix}_lambda_d", [rows]);
        Parameters = [new(_alongOutputs.Name, _alongOutputs), new(_alongRows.Name, _alongRows)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        _alongOutputs.Assign(full([Layer.Outputs], _config.StartAtZero ? 0.0 : 1.0, ScalarType.Float32, Layer.Device));
        _alongRows.Assign(_config.StartAtZero
            ? full([.. _alongRows.Shape], _config.InitialD, ScalarType.Float32, Layer.Device)
            : RandomTensors.Normal(_alongRows.Shape, 1, generator, Layer.Device));
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var input = call.Context.IsTraining && _config.Dropout > 0 ? x * RandomTensors.DropoutMask(x, _config.Dropout, call.Context.Generator) : x;
        var inner = Layer.Apply(input, Layer.FromMatrix(A(y.dtype)), null) * _alongRows.Data.to(y.dtype);
        return y + (Layer.Project(Inner(inner, call.Context), B(y.dtype)) * _alongOutputs.Data.to(y.dtype) * call.Weight);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var type = current.Weight.dtype;
        var inner = A(type).narrow(0, 0, _config.Rank) * _alongRows.Data.narrow(0, 0, _config.Rank).to(type).unsqueeze(1);
        current.Weight.add_(Layer.FromMatrix((B(type) * _alongOutputs.Data.to(type).unsqueeze(1)).mm(inner)));
        return current;
    }

    /// <summary>Whether the change, with as many rows as the projections have, costs more by tokens than in the weight.</summary>
    protected bool IsWide => 2 * _config.Rank * (Layer.Inputs + Layer.Outputs) > Layer.Inputs * Layer.Outputs;

    /// <summary>z of d ∘ (A x). Its first values, as many as the rank, are what is merged.</summary>
    protected virtual Tensor Inner(Tensor values, ForwardContext context) => values;

    private Tensor A(ScalarType type) => _shared.A.Data.narrow(1, 0, Layer.Inputs).to(type);

    private Tensor B(ScalarType type) => _shared.B.Data.narrow(0, 0, Layer.Outputs).to(type);
}
