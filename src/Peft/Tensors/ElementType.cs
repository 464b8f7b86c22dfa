using static TorchSharp.torch;

namespace Peft.Tensors;

/// <summary>An element type of stored tensors, under the names of the safetensors format.</summary>
/// <param name="Name">The name in the file's header, such as <c>BF16</c>.</param>
/// <param name="Size">Bytes an element.</param>
/// <param name="ScalarType">The type a tensor read from it has, or null where Peft can't read it.</param>
/// <param name="Rank">Its place in the format's own order, in which writers put tensors: largest first.</param>
internal sealed record ElementType(string Name, int Size, ScalarType? ScalarType, int Rank)
{
    // In the order of the format's own list, which decides where a writer puts a tensor. The unsigned types beyond U8 have no
    // counterpart in torch's usual types; a file that holds some can be opened, and only reading those tensors is refused.
    private static readonly Dictionary<string, ElementType> s_all = new ElementType[]
    {
        new("BOOL", 1, TorchSharp.torch.ScalarType.Bool, 0),
        new("U8", 1, TorchSharp.torch.ScalarType.Byte, 1),
        new("I8", 1, TorchSharp.torch.ScalarType.Int8, 2),
        new("F8_E5M2", 1, TorchSharp.torch.ScalarType.Float32, 3),
        new("F8_E4M3", 1, TorchSharp.torch.ScalarType.Float32, 4),
        new("F8_E8M0", 1, null, 5),
        new("I16", 2, TorchSharp.torch.ScalarType.Int16, 6),
        new("U16", 2, null, 7),
        new("F16", 2, TorchSharp.torch.ScalarType.Float16, 8),
        new("BF16", 2, TorchSharp.torch.ScalarType.BFloat16, 9),
        new("I32", 4, TorchSharp.torch.ScalarType.Int32, 10),
        new("U32", 4, null, 11),
        new("F32", 4, TorchSharp.torch.ScalarType.Float32, 12),
        new("C64", 8, null, 13),
        new("F64", 8, TorchSharp.torch.ScalarType.Float64, 14),
        new("I64", 8, TorchSharp.torch.ScalarType.Int64, 15),
        new("U64", 8, null, 16),
    }.ToDictionary(type => type.Name);

    /// <summary>Whether the stored bytes aren't those of the tensor's type and go through a table.</summary>
    public bool IsFloat8 => Name.StartsWith("F8_E", StringComparison.Ordinal);

    /// <summary>Looks a type up by its name in a header.</summary>
    /// <param name="name">The name.</param>
    /// <returns>The type, or null for an unknown one.</returns>
    public static ElementType? Find(string name) => s_all.GetValueOrDefault(name);

    /// <summary>Bytes an element of a tensor of a type; 0 for a type that no file holds.</summary>
    /// <param name="type">The tensor's type.</param>
    public static int SizeOf(ScalarType type) => s_all.Values.FirstOrDefault(candidate => candidate.ScalarType == type && !candidate.IsFloat8)?.Size ?? 0;

    /// <summary>The type in which a tensor is written.</summary>
    /// <param name="type">The tensor's type.</param>
    /// <param name="tensorName">For the error message.</param>
    /// <returns>The type.</returns>
    /// <exception cref="NotSupportedByPeftException">The format or Peft has no such type (complex numbers, quantised integers).</exception>
    public static ElementType For(ScalarType type, string tensorName) =>
        s_all.Values.FirstOrDefault(candidate => candidate.ScalarType == type && !candidate.IsFloat8)
        ?? throw new NotSupportedByPeftException("SafetensorsTypeNotSupported", $"Tensor '{tensorName}' has type {type}, which can't be written to a safetensors file.")
        {
            Target = tensorName,
        };
}
