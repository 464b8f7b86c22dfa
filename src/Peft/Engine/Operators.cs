using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Engine;

/// <summary>
/// Operators of libtorch that TorchSharp's wrappers don't reach, each with its plain formula where the engine lacks it. On NuGet's engine
/// TorchScript reaches any of them: <c>torch.NAME</c> is <c>aten::NAME</c> there, at some four microseconds a call. A name that libtorch
/// doesn't know is refused when the text is compiled, and then the formula stands in; those below exist from libtorch 2.5 on.
/// </summary>
internal static class Operators
{
    private const string Text = """
        def grouped_attention(q, k, v, causal: bool, scale: float):
            return torch.scaled_dot_product_attention(q, k, v, None, 0.0, causal, scale=scale, enable_gqa=True)


        """;

    private static readonly Lazy<jit.CompilationUnit?> s_compiled = new(static () =>
    {
        try
        {
            return jit.compile(Text);
        }
        catch (Exception error) when (error is System.Runtime.InteropServices.ExternalException or NotSupportedException)
        {
            return null;
        }
    });

    /// <summary>Whether the engine's own operators are used.</summary>
    public static bool AreNative => s_compiled.Value is not null;

    /// <summary>softmax(scale · Q Kᵀ) V by the kernel that suits the device; differentiable by autograd.</summary>
    /// <param name="queries">[rows, heads, queries, head size].</param>
    /// <param name="keys">[rows, key and value heads, keys, head size]; each serves a group of query heads.</param>
    /// <param name="values">[rows, key and value heads, keys, value size].</param>
    /// <param name="causal">Whether query i sees keys 0 to i alone.</param>
    /// <param name="scale">Multiplies scores.</param>
    /// <returns>[rows, heads, queries, value size].</returns>
    public static Tensor GroupedAttention(Tensor queries, Tensor keys, Tensor values, bool causal, double scale)
    {
        if (s_compiled.Value is { } compiled)
        {
            // TorchSharp would make a number of it that nothing keeps until it is read.
            Scalar factor = scale;
            var result = (Tensor)compiled.invoke("grouped_attention", queries, keys, values, causal, factor);
            GC.KeepAlive(factor);
            return result;
        }

        return GroupedAttentionByFormula(queries, keys, values, causal, scale);
    }

    /// <summary>The same by plain operators.</summary>
    internal static Tensor GroupedAttentionByFormula(Tensor queries, Tensor keys, Tensor values, bool causal, double scale)
    {
        var group = queries.size(1) / keys.size(1);
        var (k, v) = group == 1 ? (keys, values) : (keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1));
        long rows = queries.size(0), heads = queries.size(1), length = queries.size(2), count = k.size(2);
        var scores = queries.reshape(rows * heads, length, -1).bmm(k.reshape(rows * heads, count, -1).transpose(1, 2)).mul(scale);
        if (causal)
        {
            scores = scores.masked_fill(ones([length, count], ScalarType.Bool, queries.device).triu(1), double.NegativeInfinity);
        }

        return scores.softmax(-1).bmm(v.reshape(rows * heads, count, -1)).view(rows, heads, length, -1);
    }
}
