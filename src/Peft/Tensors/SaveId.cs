using System.Security.Cryptography;
using System.Text;
using static TorchSharp.torch;

namespace Peft.Tensors;

/// <summary>
/// Tells files of one save from those of another: a digest of the content, which every part carries. Equal content has an equal id, so that
/// equal saves are equal byte for byte.
/// </summary>
internal static class SaveId
{
    /// <summary>Its key in a safetensors file's metadata and in that of an index.</summary>
    public const string Key = "peft_save_id";

    /// <summary>The id of tensors and what belongs to them.</summary>
    /// <param name="tensors">The tensors by name, on any device.</param>
    /// <param name="onTensor">Called after each; what it throws is passed on.</param>
    /// <param name="documents">Texts that are saved with them.</param>
    /// <returns>32 hexadecimal digits.</returns>
    public static string Of(IEnumerable<(string Name, Tensor Value)> tensors, Action? onTensor = null, params IEnumerable<string> documents)
    {
        using var hash = SHA256.Create();
        using (var stream = new CryptoStream(Stream.Null, hash, CryptoStreamMode.Write))
        {
            foreach (var document in documents)
            {
                stream.Write(Encoding.UTF8.GetBytes(document + "\n"));
            }

            foreach ((var name, var value) in tensors)
            {
                stream.Write(Encoding.UTF8.GetBytes($"{name} {value.dtype} [{string.Join(",", value.shape)}]\n"));
                TensorMemory.CopyTo(value, stream);
                onTensor?.Invoke();
            }
        }

        return Convert.ToHexStringLower(hash.Hash!)[..32];
    }

    /// <summary>The error of files that don't belong together.</summary>
    /// <param name="path">Where they lie.</param>
    /// <param name="what">Which of them.</param>
    public static PeftException Mixture(string path, string what) => new("SaveMixed", $"'{path}' holds parts of different saves: {what}.")
    {
        Target = path,
        RecommendedAction = "Copy all files of one save again, or save again from the model.",
    };
}
