using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Deft;

/// <summary>DEFT (2025): what the weight has in a learned subspace of the outputs is taken out, and something learned is put in its place. Defaults are PEFT's.</summary>
public sealed record DeftConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "DEFT";

    /// <summary>Dimensions of the subspace, at most the layer's outputs.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 8;

    /// <summary>How the subspace is formed: <c>relu</c> of a matrix and its positive part, or <c>qr</c> of its orthonormal columns.</summary>
    [ConfigField("decomposition_method", Parameter = "Decomposition", Choices = ["relu", "qr"])]
    public string Decomposition { get; init; } = "relu";

    /// <summary>Multiplies the deviation with which what is put in starts, where it starts at random.</summary>
    [ConfigField("init_scale", Parameter = "InitialScale", IsReal = true)]
    public double InitialScale { get; init; } = 1;

    /// <summary>Strength of what is put in: it is multiplied by alpha / rank; without it by 1.</summary>
    [ConfigField("alpha")]
    public int? Alpha { get; init; }

    /// <summary>Only takes out, and puts in nothing.</summary>
    [ConfigField("para", Parameter = "ProjectOnly")]
    public bool ProjectsOnly { get; init; }

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Probability with which an input of what is put in is dropped in training.</summary>
    [ConfigField("deft_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <summary>Whether what is put in starts as what is taken out, so that nothing changes at first; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtIdentity { get; init; } = true;

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>deft_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "deft_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear ? new DeftLayer(layer, this) : throw KindRefused(layer);
}

/// <summary>The subspace of one layer: change = Q (s R - Kᵀ W), with Q and K the matrix P and its positive part, or both its orthonormal columns.</summary>
internal sealed class DeftLayer : LayerAdapter
{
    private readonly DeftConfig _config;
    private readonly double _scale;
    private readonly Parameter _p;
    private readonly Parameter? _r;

    /// <summary>Makes the matrices, by shape alone: P [out, rank] and R [rank, in].</summary>
    public DeftLayer(IAdaptable layer, DeftConfig config)
        : base(layer)
    {
        _config = config;
        var rank = Math.Min(config.Rank, layer.Outputs);
        _scale = config.Alpha is { } alpha and not 0 ? (double)alpha / rank : 1;
        _p = new Parameter("deft_P", [layer.Outputs, rank]);
        _r = config.ProjectsOnly ? null : new Parameter("deft_R", [rank, layer.Inputs]);
        Parameters = _r is null ? [new("deft_P", _p)] : [new("deft_P", _p), new("deft_R", _r)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        using var scope = NewDisposeScope();
        _p.Assign(RandomTensors.Normal(_p.Shape, 0.02, generator, Layer.Device).MoveToOuterDisposeScope());
        _r?.Assign((_config.StartAtIdentity
            ? Subspace().Taken.t().mm(Layer.ToMatrix(Layer.Weight.Unpacked(ScalarType.Float32))) / _scale
            : RandomTensors.Normal(_r.Shape, 0.02 * _config.InitialScale, generator, Layer.Device)).MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var type = y.dtype;
        var (put, taken) = Subspace();
        var inner = -IAdaptable.Multiply(x, taken.to(type).t().mm(Layer.ToMatrix(BareWeight(call, type))));
        if (_r is not null)
        {
            var input = call.Context.IsTraining && _config.Dropout > 0 ? x * RandomTensors.DropoutMask(x, _config.Dropout, call.Context.Generator) : x;
            inner = inner + (IAdaptable.Multiply(input, _r.Data.to(type)) * _scale);
        }

        return y + (IAdaptable.Multiply(inner, put.to(type)) * call.Weight);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var type = current.Weight.dtype;
        var (put, taken) = Subspace();
        var factor = -taken.to(type).t().mm(Layer.ToMatrix(bare.Weight));
        if (_r is not null)
        {
            factor = factor + (_r.Data.to(type) * _scale);
        }

        current.Weight.add_(Layer.FromMatrix(put.to(type).mm(factor)));
        return current;
    }

    private (Tensor Put, Tensor Taken) Subspace()
    {
        if (_config.Decomposition == "relu")
        {
            return (_p.Data, _p.Data.relu());
        }

        var basis = linalg.qr(_p.Data).Q;
        return (basis, basis);
    }
}
