using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Hra;

/// <summary>HRA (Yuan et al. 2024): a layer's inputs are reflected at a few learned hyperplanes, one after the other. Defaults are PEFT's.</summary>
public sealed record HraConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "HRA";

    /// <summary>Number of reflections. With an even one they start in pairs that cancel, so that nothing changes at first.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 8;

    /// <summary>Makes the hyperplanes orthogonal to each other, by Gram and Schmidt's method.</summary>
    [ConfigField("apply_GS", Parameter = "Orthogonal")]
    public bool IsOrthogonal { get; init; }

    /// <summary>Whether reflections start in pairs that cancel; false starts each at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartInPairs { get; init; } = true;

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>hra_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "hra_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not (Linear or Convolution))
        {
            throw KindRefused(layer);
        }

        if (StartInPairs && Rank % 2 != 0 && adapter.Layers.Count == 0)
        {
            messages.Add($"r is odd ({Rank}): reflections can't start in pairs that cancel, so that the output changes from the start.");
        }

        return new HraLayer(layer, this);
    }
}

/// <summary>The reflections of one layer: x (I - 2 uᵣuᵣᵀ) … (I - 2 u₁u₁ᵀ), with u the columns of a matrix, each of length 1.</summary>
internal sealed class HraLayer : RotationLayer
{
    private readonly HraConfig _config;
    private readonly Parameter _normals;

    /// <summary>Makes the hyperplanes, by shape alone: their normals [inputs · kernel, rank].</summary>
    public HraLayer(IAdaptable layer, HraConfig config)
        : base(layer)
    {
        _config = config;
        _normals = new Parameter("hra_u", [layer.Weight.Count / layer.Outputs, config.Rank]);
        Parameters = [new("hra_u", _normals)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        var isPaired = _config.StartInPairs && _config.Rank % 2 == 0;
        long[] shape = [_normals.Shape[0], isPaired ? _config.Rank / 2 : _config.Rank];
        var start = RandomTensors.Uniform(shape, 1 / Math.Sqrt(shape[1]), generator, Layer.Device);
        _normals.Assign(isPaired ? start.repeat_interleave(2, 1) : start);
    }

    /// <summary>
    /// H₁ … Hᵣ = I - U T Uᵀ with T⁻¹ the part of UᵀU above the diagonal and ½ on it (Schreiber and Van Loan 1989): two thin products
    /// instead of one for each reflection.
    /// </summary>
    /// <inheritdoc/>
    protected override Tensor Rotate(Tensor rows, bool back, SlotCall? call)
    {
        if (_config.IsOrthogonal)
        {
            var basis = Orthogonal(_normals.Data).to(rows.dtype);
            return rows - (rows.mm(basis).mm(basis.t()) * 2);
        }

        var units = _normals.Data / _normals.Data.square().sum(dim: 0).sqrt();
        var inner = linalg.inv(units.t().mm(units).triu(1) + (eye(_config.Rank, dtype: units.dtype, device: units.device) * 0.5));
        var (directions, factors) = (units.to(rows.dtype), inner.to(rows.dtype));
        return rows - rows.mm(directions).mm(back ? factors : factors.t()).mm(directions.t());
    }

    private static Tensor Orthogonal(Tensor normals)
    {
        List<Tensor> basis = [];
        foreach (var column in normals.unbind(1))
        {
            var rest = column;
            foreach (var earlier in basis)
            {
                rest = rest - (earlier * (earlier * rest).sum());
            }

            basis.Add(rest / rest.square().sum().sqrt());
        }

        return stack(basis, 1);
    }
}
