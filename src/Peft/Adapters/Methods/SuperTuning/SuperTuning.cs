using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.SuperTuning;

/// <summary>Super-Tuning: the largest entries of the weight, or the smallest, are trained by themselves, beside a low-rank change where one is asked for. Defaults are PEFT's.</summary>
[ConfigWithout("exclude_modules", "layers_to_transform", "layers_pattern")]
public sealed record SuperTuningConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "SUPERTUNING";

    /// <summary>Share of the weight's entries that stay as they are.</summary>
    [ConfigField("sparsity", IsReal = true, Minimum = 0)]
    public double Sparsity { get; init; } = 0.99;

    /// <summary>Whether the largest entries are trained; false takes the smallest.</summary>
    [ConfigField("select_top", Parameter = "SelectLargest")]
    public bool SelectsLargest { get; init; } = true;

    /// <summary>Rank of a low-rank change beside the entries; without it there is none.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int? Rank { get; init; }

    /// <summary>Strength of the low-rank change: it is multiplied by alpha / rank. Twice the rank where nothing is said.</summary>
    [ConfigField("lora_alpha")]
    public double? Alpha { get; init; }

    /// <summary>Probability with which an input of the low-rank change is dropped in training.</summary>
    [ConfigField("lora_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <summary>Saves which entries are trained; without it they are found again in the base when the adapter is loaded.</summary>
    [ConfigField("save_precomputed_indices", Parameter = "SaveIndices")]
    public bool SaveIndices { get; init; } = true;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (Sparsity >= 1)
        {
            throw Contradiction($"sparsity ({Sparsity}) has to be below 1: nothing would be trained.");
        }

        if (Rank is null && Alpha is not null)
        {
            throw Contradiction("lora_alpha is the strength of a low-rank change, which needs r.");
        }
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new LayerwiseAdapter(name, Alpha is null && Rank is { } rank ? this with { Alpha = 2 * rank } : this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not Linear)
        {
            throw KindRefused(layer);
        }

        var count = (long)(layer.Weight.Count * (1 - Sparsity));
        return count > 0 ? new SuperTuningLayer(layer, this, count) : throw new PeftException(
            "RankInvalid", $"sparsity {Sparsity} leaves none of the {layer.Weight.Count} entries of '{layer.Path}' to train.")
        {
            Target = layer.Path,
            RecommendedAction = "Give a lower sparsity.",
        };
    }
}

/// <summary>The trained entries of one layer, and its low-rank factors.</summary>
internal sealed class SuperTuningLayer : MatrixLayer
{
    private readonly SuperTuningConfig _config;
    private readonly Parameter _values;
    private readonly Parameter _places;
    private readonly Parameter? _a;
    private readonly Parameter? _b;

    /// <summary>Makes the parameters, by shape alone: values [n] and their places [n], counted row by row; A [rank, in] and B [out, rank].</summary>
    public SuperTuningLayer(IAdaptable layer, SuperTuningConfig config, long count)
        : base(layer)
    {
        _config = config;
        _values = new Parameter("supertuning_values", [count]);
        _places = new Parameter("supertuning_indices", [count], ScalarType.Int32);
        Parameters = [new("supertuning_values", _values), new("supertuning_indices", _places, config.SaveIndices ? ParameterRole.Index : ParameterRole.Derived)];
        if (config.Rank is { } rank)
        {
            _a = new Parameter("weight", [rank, layer.Inputs]);
            _b = new Parameter("weight", [layer.Outputs, rank]);
            Parameters = [.. Parameters, new("supertuning_lora_A.weight", _a), new("supertuning_lora_B.weight", _b)];
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    private double Scale => (_config.Alpha ?? 2 * _config.Rank!.Value) / _config.Rank!.Value;

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        using var scope = NewDisposeScope();
        var device = Layer.Device;
        var sizes = Layer.ToMatrix(Layer.Weight.Unpacked(Layer.Weight.DataType)).abs().flatten();
        var (_, chosen) = sizes.topk((int)_values.Count, 0, _config.SelectsLargest, true);
        _places.Assign(chosen.to(ScalarType.Int32).MoveToOuterDisposeScope());
        _values.Assign((_config.StartAtZero ? RandomTensors.Zeros(_values.Shape, device) : RandomTensors.Normal(_values.Shape, 1, generator, device)).MoveToOuterDisposeScope());
        _a?.Assign(RandomTensors.Uniform(_a.Shape, 1 / Math.Sqrt(Layer.Inputs), generator, device).MoveToOuterDisposeScope());
        _b?.Assign((_config.StartAtZero ? RandomTensors.Zeros(_b.Shape, device) : RandomTensors.Uniform(_b.Shape, 1 / Math.Sqrt(_b.Shape[1]), generator, device)).MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var result = y + (Layer.Apply(x, Layer.FromMatrix(Entries(y.dtype)), null) * call.Weight);
        if (_a is null)
        {
            return result;
        }

        var input = call.Context.IsTraining && _config.Dropout > 0 ? x * RandomTensors.DropoutMask(x, _config.Dropout, call.Context.Generator) : x;
        return result + (IAdaptable.Multiply(IAdaptable.Multiply(input, _a.Data.to(y.dtype)), _b!.Data.to(y.dtype)) * (Scale * call.Weight));
    }

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare) =>
        _a is null ? Entries(type) : Entries(type) + (_b!.Data.to(type).mm(_a.Data.to(type)) * Scale);

    private Tensor Entries(ScalarType type) => zeros([Layer.Weight.Count], ScalarType.Float32, Layer.Device)
        .index_add(0, _places.Data.to(ScalarType.Int64), _values.Data, 1).view(Layer.Outputs, Layer.Inputs).to(type);
}
