using System.Text.Json.Nodes;
using Peft.Quantization;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>
/// LoftQ (Li et al. 2023): the base's weight is quantised, and the factors begin with the leading part of what that loses, alternately, so that both together
/// are nearer to the weight than quantising alone. As with PEFT the strength of the change isn't taken into account: alpha = rank is meant.
/// </summary>
/// <param name="Bits">4 (NF4) or 8 (rows of integers).</param>
/// <param name="Iterations">Times that both are done.</param>
internal sealed record LoftqStart(int Bits, int Iterations)
{
    private const int BlockSize = 64;
    private const double Int8Step = 1 / 127.0;

    /// <summary>Reads <c>loftq_config</c>.</summary>
    /// <exception cref="PeftException"><c>AdapterConfigContradictory</c>.</exception>
    public static LoftqStart From(JsonNode? settings)
    {
        var (bits, iterations) = ((int?)settings?["loftq_bits"] ?? 4, (int?)settings?["loftq_iter"] ?? 1);
        return bits is 4 or 8 && iterations > 0
            ? new LoftqStart(bits, iterations)
            : throw new PeftException("AdapterConfigContradictory", $"loftq_config asks for {bits} bits in {iterations} iterations; bits can be 4 or 8, and there is at least one iteration.") { Target = "loftq_config" };
    }

    /// <summary>The weight that the base has, and the factors.</summary>
    /// <param name="weight">[out, in], float32.</param>
    /// <param name="rank">Rank of the factors.</param>
    public (Tensor Base, Tensor A, Tensor B) Run(Tensor weight, long rank)
    {
        var rest = weight;
        for (var i = 1; ; i++)
        {
            var quantised = Quantised(rest);
            var (u, s, vh) = linalg.svd(weight - quantised, fullMatrices: false);
            var roots = s.narrow(0, 0, rank).sqrt();
            var (a, b) = (vh.narrow(0, 0, rank).mul(roots.unsqueeze(1)), u.narrow(1, 0, rank).mul(roots));
            if (i == Iterations)
            {
                return (quantised, a, b);
            }

            rest = weight - b.mm(a);
        }
    }

    private Tensor Quantised(Tensor values)
    {
        if (Bits == 8)
        {
            var (codes, scales, _) = Int8Rows.Quantize(values.to(ScalarType.Float16));
            return codes.to(ScalarType.Float32).mul(scales.unsqueeze(1)).mul(Int8Step);
        }

        var here = values.to(CPU).contiguous();
        var (packed, blockScales) = FourBitBlocks.Quantize(here, FourBitType.NF4, BlockSize);
        var dense = empty_like(here);
        FourBitBlocks.Dequantize(packed, blockScales, FourBitType.NF4, BlockSize, dense, ScalarType.Float32);
        GC.KeepAlive(here);
        return dense.to(values.device);
    }
}
