using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using Peft.Files;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Engine;

/// <summary>
/// What the machine at hand decides, by its load or by a measurement, and what shows in the last bits of results. A training decides it before its
/// first step, keeps to it, and goes on with it when it is resumed.
/// </summary>
/// <param name="Threads">How many threads compute: sums are parted among them.</param>
/// <param name="Products">Type in which products with frozen weights are formed: the weights' own, or <c>float32</c> for bfloat16 weights where the processor is faster so.</param>
public sealed record ComputeChoice(
    [property: JsonPropertyName("threads")] int Threads,
    [property: JsonPropertyName("products")] string Products)
{
    /// <summary>The name of float32 in <see cref="Products"/>.</summary>
    internal const string Float32 = "float32";

    /// <summary>Whether products with bfloat16 weights are formed in float32.</summary>
    internal bool InFloat32(ScalarType weights) => weights == ScalarType.BFloat16 && Products == Float32;

    /// <summary>Decides for a training: as the user says, else as it was before, else by what is here.</summary>
    /// <param name="before">What the training began with; null where it begins.</param>
    /// <param name="model">The model, its weights as they will be computed with.</param>
    internal static ComputeChoice Decide(ComputeChoice? before, PretrainedModel model)
    {
        var threads = before is not null && !ComputeThreads.IsGiven && before.Threads <= Environment.ProcessorCount ? before.Threads : ComputeThreads.Count;
        var type = model.DataType;
        var products = type == ScalarType.BFloat16 && model.Device.type == TorchSharp.DeviceType.CPU
            ? FloatProducts.Given ?? before?.Products ?? FloatProducts.Faster(model)
            : type.ToString().ToLowerInvariant();
        return new ComputeChoice(threads, products);
    }

    /// <summary>Reads what <see cref="ToJson"/> wrote; null where that isn't there.</summary>
    internal static ComputeChoice? FromJson(JsonNode? node)
    {
        try
        {
            return node is JsonObject ? node.Deserialize<ComputeChoice>(JsonFile.WriteOptions) is { Threads: > 0, Products: not null } choice ? choice : null : null;
        }
        catch (JsonException)
        {
            return null;
        }
    }

    /// <summary>As it stands in a checkpoint.</summary>
    internal JsonNode? ToJson() => JsonSerializer.SerializeToNode(this, JsonFile.WriteOptions);

    /// <inheritdoc/>
    public override string ToString() => FormattableString.Invariant($"{Threads} {(Threads == 1 ? "thread" : "threads")}, products in {Products}");
}
