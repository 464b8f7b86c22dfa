using System.Numerics.Tensors;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary>The largest element of each row, such as the score of the likeliest token, and where it stands.</summary>
internal static unsafe class LargestKernel
{
    private const int Piece = 1024;

    /// <summary>Whether <see cref="Find"/> serves a matrix.</summary>
    public static bool Serves(Tensor x) => x.Dimensions == 2 && x.size(1) is > 0 and <= int.MaxValue && CpuRows.Serves(x);

    /// <summary>The first of the largest elements of each row; one that is no number counts as the largest.</summary>
    /// <param name="x">[rows, width].</param>
    public static (int Index, float Value)[] Find(Tensor x)
    {
        var (rows, width) = (CpuRows.Of(x, x.size(1)), (int)x.size(1));
        var scratch = stackalloc float[Piece];
        var found = new (int Index, float Value)[x.size(0)];
        for (var row = 0; row < found.Length; row++)
        {
            var largest = (Index: 0, Value: float.NegativeInfinity);
            for (var start = 0; start < width && !float.IsNaN(largest.Value); start += Piece)
            {
                var values = rows.ReadAt(((long)row * width) + start, Math.Min(Piece, width - start), scratch);
                var index = TensorPrimitives.IndexOfMax(values);
                largest = values[index] > largest.Value || float.IsNaN(values[index]) ? (start + index, values[index]) : largest;
            }

            found[row] = largest;
        }

        GC.KeepAlive(x);
        return found;
    }
}
