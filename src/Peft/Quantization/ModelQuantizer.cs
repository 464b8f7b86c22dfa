using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Quantization;

/// <summary>Quantises the linear layers of a model.</summary>
public static class ModelQuantizer
{
    /// <summary>Puts the weights of linear layers into a packed form, one by one: each plain weight is freed before the next is packed.</summary>
    /// <param name="model">A model whose weights are loaded, without adapters.</param>
    /// <param name="config">How.</param>
    /// <param name="cancellation">Looked at between layers.</param>
    /// <returns>The layers whose weights are packed.</returns>
    /// <exception cref="PeftException"><c>QuantizationInvalid</c>, <c>NothingToQuantize</c>, <c>WeightsNotLoaded</c>, <c>WeightsPacked</c>: they are already.</exception>
    public static IReadOnlyList<Linear> Quantize(PretrainedModel model, QuantizationConfig config, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(config);
        config.Validate();
        Linear[] layers = [.. Targets(model, config).Where(static layer => layer.Weight.IsOwner)];
        if (layers.Length == 0)
        {
            throw new PeftException("NothingToQuantize", $"'{model.ClassName}' has no linear layer that the configuration doesn't skip.") { Target = model.ClassName };
        }

        using var noGradients = no_grad();
        var buffer = new UnpackBuffer();
        foreach (var layer in layers)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            layer.Weight.Pack(Pack(layer, config, buffer));
        }

        model.Fuse();
        return layers;
    }

    /// <summary>Refuses what isn't held to the peer's for whole models yet.</summary>
    /// <exception cref="NotSupportedByPeftException"><c>QuantizationNotSupported</c>.</exception>
    public static void RefuseUnsupported(QuantizationConfig config)
    {
        ArgumentNullException.ThrowIfNull(config);
        if (config.LoadIn8Bit)
        {
            throw new NotSupportedByPeftException("QuantizationNotSupported", "Models with eight-bit weights (load_in_8bit) are not supported.") { Target = "load_in_8bit" };
        }
    }

    /// <summary>The linear layers that a configuration quantises: without one of its own those of the backbone, for heads stay as they are.</summary>
    public static IEnumerable<Linear> Targets(PretrainedModel model, QuantizationConfig config) => config.SkipModules is { } skipped
        ? model.Descendants().OfType<Linear>().Where(layer => !skipped.Any(name => IsBelow(layer.Path, name)))
        : model.Backbone.Descendants().OfType<Linear>();

    private static bool IsBelow(string path, string name) =>
        path == name || path.EndsWith("." + name, StringComparison.Ordinal) || path.StartsWith(name + ".", StringComparison.Ordinal);

    private static PackedWeight Pack(Linear layer, QuantizationConfig config, UnpackBuffer buffer)
    {
        var weight = layer.ToMatrix(layer.Weight.Data);
        return config.LoadIn8Bit
            ? Int8Weight.Quantize(weight, config.Threshold, buffer, layer.IsTransposed)
            : FourBitWeight.Quantize(
                weight,
                new FourBitOptions(config.QuantType) { BlockSize = config.BlockSize, HasNestedScales = config.UseDoubleQuant, ComputeType = config.ComputeType },
                buffer,
                layer.IsTransposed);
    }
}
