using System.Diagnostics.CodeAnalysis;
using System.Text.Json.Nodes;
using Peft.Models;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Quantization.Checkpoints;

/// <summary>
/// A quantised checkpoint under the names of the plain weights: what belongs to one quantised weight (scales, zero points, states) is one tensor, that is
/// read packed where the model has room for it and unpacked otherwise.
/// </summary>
public sealed class QuantizedStore : TensorStore, IPackedStore
{
    private readonly TensorStore _file;
    private readonly Dictionary<string, QuantizedTensor> _quantized = new(StringComparer.Ordinal);
    private readonly List<string> _names = [];

    private QuantizedStore(TensorStore file, IEnumerable<QuantizedTensor> quantized)
    {
        _file = file;
        foreach (var tensor in quantized)
        {
            _quantized.Add(tensor.Entry.Name, tensor);
        }

        var parts = _quantized.Values.SelectMany(static tensor => tensor.Parts).ToHashSet(StringComparer.Ordinal);
        _names = [.. file.Names.Where(name => !parts.Contains(name)), .. _quantized.Keys];
    }

    /// <inheritdoc/>
    public override IReadOnlyCollection<string> Names => _names;

    /// <inheritdoc/>
    public override string Path => _file.Path;

    /// <summary>Reads a checkpoint as its configuration says.</summary>
    /// <param name="settings"><c>quantization_config</c> of the model's config.json.</param>
    /// <param name="type">The model's type, for forms that don't say which their weights had.</param>
    /// <param name="file">The model's tensors, which stay the caller's.</param>
    /// <exception cref="NotSupportedByPeftException"><c>QuantizationNotSupported</c>: another method, or a variant of one without code.</exception>
    /// <exception cref="PeftException"><c>QuantizedWeightInvalid</c>: tensors that don't fit together.</exception>
    public static TensorStore Open(JsonObject settings, ScalarType type, TensorStore file) => Open(settings, type, file, keepsExperts: false);

    /// <summary>As the other.</summary>
    /// <param name="settings"><c>quantization_config</c> of the model's config.json.</param>
    /// <param name="type">The model's type.</param>
    /// <param name="file">The model's tensors.</param>
    /// <param name="keepsExperts">Whether experts that files hold packed as one tensor (MXFP4) are packed in the model too.</param>
    internal static TensorStore Open(JsonObject settings, ScalarType type, TensorStore file, bool keepsExperts)
    {
        ArgumentNullException.ThrowIfNull(settings);
        ArgumentNullException.ThrowIfNull(file);
        var method = (settings["quant_method"] as JsonValue)?.ToString() ?? (settings.ContainsKey("load_in_4bit") || settings.ContainsKey("load_in_8bit") ? "bitsandbytes" : "an unnamed method");
        return new QuantizedStore(file, method switch
        {
            "bitsandbytes" => BitsAndBytesTensors.Find(file, QuantizationConfig.FromJson(settings), type),
            "gptq" => GroupedTensors.FindGptq(file, settings, type),
            "awq" => GroupedTensors.FindAwq(file, settings, type),
            "fp8" => Float8Tensors.Find(file, settings, type),
            "mxfp4" => Mxfp4Tensors.Find(file, keepsExperts ? type : null),
            _ => throw new NotSupportedByPeftException("QuantizationNotSupported", $"The weights in '{file.Path}' are quantised by {method} (quantization_config of config.json), which is not supported.")
            {
                Target = method,
                RecommendedAction = "Weights quantised by bitsandbytes, gptq, awq, fp8 or mxfp4 are read. Import the model's unquantised weights, or a GGUF file of it.",
            },
        });
    }

    /// <inheritdoc/>
    public override bool TryGetEntry(string name, [NotNullWhen(true)] out TensorEntry? entry)
    {
        entry = _quantized.GetValueOrDefault(name)?.Entry;
        return entry is not null || _file.TryGetEntry(name, out entry);
    }

    /// <inheritdoc/>
    public override Tensor Map(string name, ScalarType? type = null) => _quantized.ContainsKey(name) ? Read(name, type) : _file.Map(name, type);

    /// <inheritdoc/>
    public bool IsPacked(string name) => _quantized.TryGetValue(name, out var tensor) && tensor is { Pack: not null } && (tensor.Entry.Shape.Count == 2 || tensor.Dense is not null);

    /// <inheritdoc/>
    public long PackedBytes(string name) => _quantized[name].Parts.Sum(part =>
        _file.Entry(part) is var entry && entry.StoredType.StartsWith("F8", StringComparison.Ordinal) ? entry.Count : entry.Count * ElementType.SizeOf(entry.ScalarType));

    /// <inheritdoc/>
    public PackedWeight ReadPacked(string name, UnpackBuffer buffer, bool isTransposed, Device device)
    {
        using var scope = NewDisposeScope();
        return _quantized[name].Pack!(new PackedPlace(buffer, isTransposed, device));
    }

    /// <inheritdoc/>
    internal override IEnumerable<MappedFile> TakeMappedFiles() => _file.TakeMappedFiles();

    /// <inheritdoc/>
    internal override void MapSmallFiles() => _file.MapSmallFiles();

    /// <inheritdoc/>
    internal override bool IsMapped(Tensor tensor) => _file.IsMapped(tensor);

    /// <inheritdoc/>
    protected override Tensor ReadStored(TensorEntry entry)
    {
        ArgumentNullException.ThrowIfNull(entry);
        if (!_quantized.TryGetValue(entry.Name, out var tensor))
        {
            return _file.Read(entry.Name);
        }

        using var scope = NewDisposeScope();
        if (tensor.Dense is { } dense)
        {
            return dense().MoveToOuterDisposeScope();
        }

        using var packed = tensor.Pack!(new PackedPlace(new UnpackBuffer(), IsTransposed: false, CPU));
        var values = empty([.. entry.Shape], entry.ScalarType);
        packed.Unpack(values);
        return values.MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
    }
}

/// <summary>Where a packed weight goes.</summary>
/// <param name="Buffer">Where the model's packed weights are unpacked to.</param>
/// <param name="IsTransposed">Whether the layout of the parameter that takes it is [inputs, outputs].</param>
/// <param name="Device">Where its tensors lie.</param>
internal sealed record PackedPlace(UnpackBuffer Buffer, bool IsTransposed, Device Device);

/// <summary>A quantised weight in a file.</summary>
/// <param name="Entry">Name, type and shape of the plain weight.</param>
/// <param name="Parts">The file's tensors that belong to it.</param>
internal sealed record QuantizedTensor(TensorEntry Entry, IReadOnlyList<string> Parts)
{
    /// <summary>Reads it packed; null where it can only be read unpacked. What is made on the way is of the caller's dispose scope.</summary>
    public Func<PackedPlace, PackedWeight>? Pack { get; init; }

    /// <summary>Reads it unpacked, into the caller's dispose scope; null where that is by its packed form.</summary>
    public Func<Tensor>? Dense { get; init; }

    /// <summary>The error of tensors that don't fit together.</summary>
    public static PeftException Invalid(TensorStore file, string name, string what) => new("QuantizedWeightInvalid", $"'{file.Path}' holds a quantised weight '{name}' that can't be read: {what}.")
    {
        Target = name,
        RecommendedAction = "Fetch the model's files again; config.json and weights have to be of one save.",
    };
}
