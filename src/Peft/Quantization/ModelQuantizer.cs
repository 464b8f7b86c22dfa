using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Engine;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Quantization;

/// <summary>Quantises the linear layers of a model, while it is loaded (<see cref="LoadOptions.Packing"/>) or afterwards.</summary>
/// <param name="config">How.</param>
/// <exception cref="PeftException"><c>QuantizationInvalid</c>.</exception>
public sealed class ModelQuantizer(QuantizationConfig config) : IWeightPacking
{
    private readonly QuantizationConfig _config = Valid(config);
    private readonly UnpackBuffer _buffer = new();

    /// <inheritdoc/>
    public JsonObject Document => _config.ToJson();

    /// <summary>
    /// Puts the weights of linear layers into a packed form, one by one: each plain weight is freed before the next is packed. What is packed when this is
    /// stopped stays packed, the model's configuration says which layers aren't, and the same call goes on with these.
    /// </summary>
    /// <param name="model">A model whose weights are loaded, without adapters.</param>
    /// <param name="config">How.</param>
    /// <param name="cancellation">Looked at between layers.</param>
    /// <param name="onProgress">Told how many layers are packed, of how many.</param>
    /// <returns>The layers whose weights are packed.</returns>
    /// <exception cref="PeftException"><c>QuantizationInvalid</c>, <c>NothingToQuantize</c>, <c>WeightsNotLoaded</c>, <c>WeightsPacked</c>: they are already.</exception>
    public static IReadOnlyList<Linear> Quantize(PretrainedModel model, QuantizationConfig config, Action<int, int>? onProgress = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        var quantizer = new ModelQuantizer(config);
        Linear[] targets = [.. quantizer.Targets(model).Where(static layer => layer.Weight.IsOwner)];
        if (targets.Length == 0)
        {
            throw Nothing(model);
        }

        using var noGradients = no_grad();

        // Refused before anything has changed.
        Linear[] layers = [.. targets.Where(static layer => layer.Weight.Packed is null)];
        if (layers.Length == 0 || (layers.Length < targets.Length && !config.GoesOn(model.Config.Document["quantization_config"] as JsonObject)))
        {
            throw Already(model);
        }

        foreach (var layer in layers)
        {
            _ = layer.Weight.Data;
            layer.Weight.RefuseOffloaded("quantised in place");
        }

        try
        {
            for (var i = 0; i < layers.Length; i++)
            {
                cancellation.ThrowIfCancellationRequested();
                using var scope = NewDisposeScope();
                layers[i].Weight.Pack(quantizer.Pack(layers[i], layers[i].Weight.Data));
                onProgress?.Invoke(i + 1, layers.Length);
            }
        }
        finally
        {
            FreedMemory.GiveBack();
            model.Fuse();
            Describe(model, config, targets);
        }

        return layers;
    }

    /// <summary>What is to be said of experts that stay as they are: they are no linear layers, and bitsandbytes leaves them too. Null where there are none.</summary>
    /// <param name="model">A model whose linear layers are quantised.</param>
    public static string? UnquantizedExperts(PretrainedModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        var all = model.NamedWeights().Where(static named => named.Parameter.IsOwner).ToArray();
        var experts = all.Where(static named => named.Parameter.Packed is null && named.Module.AdaptableOf(named.Parameter) is ExpertWeight).ToArray();
        if (experts.Length == 0)
        {
            return null;
        }

        var names = experts.Select(static named => string.Join('.', named.Path.Split('.').Select(static part => int.TryParse(part, CultureInfo.InvariantCulture, out _) ? "*" : part))).Distinct();
        double left = experts.Sum(static named => named.Parameter.Bytes), whole = all.Sum(static named => named.Parameter.Bytes);
        return FormattableString.Invariant(
            $"The weights of experts stay as they are, as bitsandbytes leaves them: {string.Join(", ", names)} take {left / 1e6:N0} of the {whole / 1e6:N0} MB that the model's weights take now. Those of a GGUF file stay in its blocks with Import-PeftModel -KeepQuantized.");
    }

    /// <summary>Says in the model's configuration how it is quantised, and where not all targets are packed, which linear layers are plain.</summary>
    private static void Describe(PretrainedModel model, QuantizationConfig config, Linear[] targets)
    {
        if (!Array.TrueForAll(targets, static layer => layer.Weight.Packed is null))
        {
            model.Config.Document["quantization_config"] = (Array.TrueForAll(targets, static layer => layer.Weight.Packed is not null)
                ? config
                : config with { SkipModules = [.. model.Descendants().OfType<Linear>().Where(static layer => layer.Weight.Packed is null).Select(static layer => layer.Path)] }).ToJson();
        }
    }

    /// <summary>The linear layers that the configuration quantises: without a list of its own those of the backbone, for heads stay as they are.</summary>
    /// <param name="model">The model.</param>
    /// <exception cref="PeftException"><c>NothingToQuantize</c>: there are none.</exception>
    public IReadOnlySet<Linear> Targets(PretrainedModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        var targets = (_config.SkipModules is null ? model.Backbone : (Module)model).Descendants().OfType<Linear>()
            .Where(layer => !layer.StaysPlain && !_config.Skips(layer.Path)).ToHashSet();
        return targets.Count > 0
            ? targets
            : throw Nothing(model);
    }

    /// <inheritdoc/>
    public PackedWeight Pack(Linear layer, Tensor weight)
    {
        ArgumentNullException.ThrowIfNull(layer);
        using var scope = NewDisposeScope();
        var matrix = layer.ToMatrix(weight);
        return _config.LoadIn8Bit
            ? Int8Weight.Quantize(matrix, _config.Threshold, _buffer, layer.IsTransposed)
            : FourBitWeight.Quantize(
                matrix,
                new FourBitOptions(_config.QuantType) { BlockSize = _config.BlockSize, HasNestedScales = _config.UseDoubleQuant, ComputeType = _config.ComputeType },
                _buffer,
                layer.IsTransposed);
    }

    /// <inheritdoc/>
    public long BytesOf(Linear layer)
    {
        ArgumentNullException.ThrowIfNull(layer);
        var count = layer.Weight.Count;
        if (_config.LoadIn8Bit)
        {
            return count + (layer.Outputs * sizeof(float));
        }

        // A float32 for each block of four-bit numbers, or a byte for it and a float32 for each block of these.
        var blocks = (count + _config.BlockSize - 1) / _config.BlockSize;
        return ((count + 1) / 2) + (_config.UseDoubleQuant ? blocks + ((blocks + FourBitWeight.NestedBlockSize - 1) / FourBitWeight.NestedBlockSize * sizeof(float)) : blocks * sizeof(float));
    }

    /// <inheritdoc/>
    public void RefuseNone(IReadOnlySet<Linear> targets, PretrainedModel model)
    {
        ArgumentNullException.ThrowIfNull(targets);
        ArgumentNullException.ThrowIfNull(model);
        if (!targets.Any(static layer => layer.Weight is { IsOwner: true, Packed: not null }))
        {
            throw Nothing(model);
        }
    }

    /// <summary>The error of a model whose layers are all skipped, or share their weights with what is.</summary>
    private static PeftException Nothing(PretrainedModel model) =>
        new("NothingToQuantize", $"'{model.ClassName}' has no linear layer that the configuration doesn't skip.") { Target = model.ClassName };

    private static PeftException Already(PretrainedModel model) => new(
        "WeightsPacked",
        $"The weights of '{model.ClassName}' are quantised already ({string.Join(", ", model.NamedParameters().Select(static named => named.Parameter.Packed?.Kind).OfType<string>().Distinct())}).")
    {
        Target = model.ClassName,
        RecommendedAction = "To quantise them in another way, import the unquantised model and quantise that.",
    };

    private static QuantizationConfig Valid(QuantizationConfig config)
    {
        ArgumentNullException.ThrowIfNull(config);
        config.Validate();
        return config;
    }
}
