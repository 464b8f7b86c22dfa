using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>
/// Tells base models apart for the adapters that were made for them: by some values of norms, biases and embeddings, which stay as they are where a model is
/// quantised or loaded in another type.
/// </summary>
internal static class ModelDigest
{
    private const int Values = 16;

    /// <summary>SHA-256 in hexadecimal digits; null of a model without weights.</summary>
    /// <param name="model">The base, as it was loaded.</param>
    public static string? Of(PretrainedModel model)
    {
        if (!model.IsLoaded)
        {
            return null;
        }

        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var (path, parameter, module) in model.NamedParameters())
        {
            if (!parameter.IsOwner || parameter.Packed is not null || (parameter.Shape.Count != 1 && module is not Embedding))
            {
                continue;
            }

            // Rounded to bfloat16, whatever the type.
            var count = Math.Min(Values, parameter.Count);
            var some = parameter.Data.flatten().narrow(0, (parameter.Count - count) / 2, count).to(ScalarType.BFloat16).to(ScalarType.Float32).cpu();
            hash.AppendData(Encoding.UTF8.GetBytes(path));
            hash.AppendData(MemoryMarshal.AsBytes(some.data<float>().ToArray().AsSpan()));
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }
}
