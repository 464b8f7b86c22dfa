using System.Globalization;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Training.Checkpoints;

/// <summary>Tells base models apart: by class, names, shapes and types of the weights, and by the first values of each. Where the model lies doesn't matter.</summary>
internal static class ModelFingerprint
{
    private const int Values = 16;

    /// <summary>SHA-256 in hexadecimal digits.</summary>
    /// <param name="model">A model whose weights are loaded.</param>
    public static string Of(PretrainedModel model)
    {
        using var scope = NewDisposeScope();
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        Append(model.ClassName);
        foreach (var (path, parameter, _) in model.NamedParameters())
        {
            Append(string.Create(CultureInfo.InvariantCulture, $"{path} [{string.Join(",", parameter.Shape)}] {parameter.DataType}{parameter.Packed?.Kind}"));
            if (parameter.IsOwner)
            {
                using var own = NewDisposeScope();
                using var weights = parameter.Dense(parameter.DataType);
                var first = weights.Tensor.flatten().narrow(0, 0, Math.Min(Values, parameter.Count)).to(ScalarType.Float32).cpu();
                hash.AppendData(MemoryMarshal.AsBytes(first.data<float>().ToArray().AsSpan()));
            }
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset());

        void Append(string text) => hash.AppendData(Encoding.UTF8.GetBytes(text + "\n"));
    }
}
