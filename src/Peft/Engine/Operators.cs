using Peft.Models.Layers;
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

        def flash_attention(q, k, v, scale: float):
            output, sums = torch._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=None, scale=scale)
            return [output, sums]

        def flash_attention_backward(g, q, k, v, output, sums, scale: float):
            gq, gk, gv = torch._scaled_dot_product_flash_attention_for_cpu_backward(g, q, k, v, output, sums, 0.0, False, attn_mask=None, scale=scale)
            return [gq, gk, gv]

        def convolution_input_gradient(g, x, weight, stride: int, padding: int, dilation: int, groups: int):
            gx, gw, gb = torch.convolution_backward(g, x, weight, None, [stride, stride], [padding, padding], [dilation, dilation], False, [0, 0], groups, [True, False, False])
            return gx


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

    /// <summary><see cref="GroupedAttention"/> by plain operators.</summary>
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

    /// <summary>softmax(scale · Q Kᵀ) V where all see all, by the processor's kernel, without autograd. For where <see cref="AreNative"/>.</summary>
    /// <param name="queries">[rows, heads, queries, head size], elements of a head side by side.</param>
    /// <param name="keys">[rows, heads, keys, head size].</param>
    /// <param name="values">[rows, heads, keys, head size].</param>
    /// <param name="scale">Multiplies scores.</param>
    /// <returns>[rows, heads, queries, head size], and logarithms of the sums of exponentials, which the backward pass reads.</returns>
    public static (Tensor Output, Tensor Sums) FlashAttention(Tensor queries, Tensor keys, Tensor values, double scale)
    {
        Scalar factor = scale;
        var found = (Tensor[])s_compiled.Value!.invoke("flash_attention", queries, keys, values, factor);
        GC.KeepAlive(factor);
        return (found[0], found[1]);
    }

    /// <summary>The gradients of queries, keys and values.</summary>
    /// <param name="gradient">Of the output.</param>
    /// <param name="inputs">What <see cref="FlashAttention"/> was given.</param>
    /// <param name="found">What it returned.</param>
    /// <param name="scale">As there.</param>
    public static Tensor[] FlashAttentionGradients(
        Tensor gradient, (Tensor Queries, Tensor Keys, Tensor Values) inputs, (Tensor Output, Tensor Sums) found, double scale)
    {
        Scalar factor = scale;
        var gradients = (Tensor[])s_compiled.Value!.invoke(
            "flash_attention_backward", gradient, inputs.Queries, inputs.Keys, inputs.Values, found.Output, found.Sums, factor);
        GC.KeepAlive(factor);
        return gradients;
    }

    /// <summary>The gradient of a convolution's input over two dimensions, which needs the weight alone. For where <see cref="AreNative"/>.</summary>
    /// <param name="gradient">Of the output, [rows, outputs, height, width].</param>
    /// <param name="weight">[outputs, inputs / groups, kernel height, kernel width].</param>
    /// <param name="inputShape">[rows, inputs, height, width].</param>
    /// <param name="stride">Step, in both dimensions.</param>
    /// <param name="padding">Zeros around the input.</param>
    /// <param name="dilation">Distance between taps.</param>
    public static Tensor ConvolutionInputGradient(Tensor gradient, Tensor weight, long[] inputShape, long stride, long padding, long dilation)
    {
        // Its shape and order alone are read.
        using var input = ImageLayout.IsByPosition(gradient) ? ImageLayout.Empty(inputShape, gradient.dtype, gradient.device) : empty(inputShape, gradient.dtype, gradient.device);
        Scalar[] numbers = [stride, padding, dilation, inputShape[1] / weight.size(1)];
        var result = (Tensor)s_compiled.Value!.invoke("convolution_input_gradient", gradient, input, weight, numbers[0], numbers[1], numbers[2], numbers[3]);
        GC.KeepAlive(numbers);
        return result;
    }
}
