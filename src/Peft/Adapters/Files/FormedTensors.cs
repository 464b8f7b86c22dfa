using System.Diagnostics.CodeAnalysis;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Adapters.Files;

/// <summary>A tensor that a file doesn't hold as it is, and how it is formed of those that it holds.</summary>
/// <param name="Shape">Its shape.</param>
/// <param name="Form">Forms it, float32; the caller owns what it gives.</param>
internal sealed record FormedTensor(IReadOnlyList<long> Shape, Func<Tensor> Form);

/// <summary>The tensors of a file, some of them formed anew under other names.</summary>
/// <param name="file">The file.</param>
/// <param name="used">Names of tensors that others are formed of.</param>
/// <param name="formed">What is formed, by name.</param>
/// <param name="ownsFile">Whether the file is closed with this.</param>
internal sealed class FormedTensors(TensorStore file, IReadOnlySet<string> used, IReadOnlyDictionary<string, FormedTensor> formed, bool ownsFile = false) : TensorStore
{
    /// <inheritdoc/>
    public override IReadOnlyCollection<string> Names { get; } = [.. file.Names.Where(name => !used.Contains(name)), .. formed.Keys];

    /// <inheritdoc/>
    public override string Path => file.Path;

    /// <inheritdoc/>
    public override bool TryGetEntry(string name, [NotNullWhen(true)] out TensorEntry? entry)
    {
        if (formed.TryGetValue(name, out var tensor))
        {
            entry = new TensorEntry(name, ScalarType.Float32, tensor.Shape, "F32");
            return true;
        }

        entry = null;
        return !used.Contains(name) && file.TryGetEntry(name, out entry);
    }

    /// <inheritdoc/>
    protected override Tensor ReadStored(TensorEntry entry) => formed.TryGetValue(entry.Name, out var tensor) ? tensor.Form() : file.Read(entry.Name);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (ownsFile && disposing)
        {
            file.Dispose();
        }
    }
}
