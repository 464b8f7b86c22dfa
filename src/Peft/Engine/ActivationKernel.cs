using System.Numerics;
using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary>Activations that there are kernels for.</summary>
internal enum ActivationForm
{
    /// <summary>x · sigmoid(x).</summary>
    Silu,

    /// <summary>x · Φ(x).</summary>
    Gelu,

    /// <summary>Its approximation by tanh.</summary>
    TanhGelu,

    /// <summary>x · sigmoid(1.702 x).</summary>
    QuickGelu,

    /// <summary>max(x, 0).</summary>
    Relu,

    /// <summary>tanh(x).</summary>
    Tanh,
}

/// <summary>Activations in one pass; by operators some are eight.</summary>
internal static unsafe class ActivationKernel
{
    private const int Piece = 512;
    private const long GrainPieces = 16;

    /// <summary>The activation of a tensor that <see cref="CpuRows"/> serves.</summary>
    public static Tensor Form(ActivationForm form, Tensor x)
    {
        var y = empty_like(x);
        var work = new Work { Form = form, Input = CpuRows.Of(x, 1), Output = CpuRows.Of(y, 1), Count = x.NumberOfElements };
        RowParallel.Run((work.Count + Piece - 1) / Piece, GrainPieces, &Pieces, &work);
        GC.KeepAlive(x);
        return y;
    }

    /// <summary>Whether there is <see cref="Gradient"/> of an activation.</summary>
    public static bool HasGradient(ActivationForm form) => form != ActivationForm.Gelu;

    /// <summary>Multiplies what comes back from behind the activation by its slope.</summary>
    /// <param name="form">The activation; one that <see cref="HasGradient"/>.</param>
    /// <param name="x">What it was applied to, one that <see cref="CpuRows"/> serves.</param>
    /// <param name="gradient">Of as many elements, served too; it is written over.</param>
    public static void Gradient(ActivationForm form, Tensor x, Tensor gradient)
    {
        var work = new Work { Form = form, Input = CpuRows.Of(x, 1), Output = CpuRows.Of(gradient, 1), Count = x.NumberOfElements };
        RowParallel.Run((work.Count + Piece - 1) / Piece, GrainPieces, &GradientPieces, &work);
        GC.KeepAlive(x);
        GC.KeepAlive(gradient);
    }

    /// <summary>Applies it, element by element; sums and products are float32.</summary>
    /// <param name="form">The activation.</param>
    /// <param name="x">The values.</param>
    /// <param name="y">Takes the results; not the values themselves.</param>
    public static void Apply(ActivationForm form, ReadOnlySpan<float> x, Span<float> y)
    {
        switch (form)
        {
            case ActivationForm.Silu:
                TensorPrimitives.Sigmoid(x, y);
                TensorPrimitives.Multiply(x, y, y);
                break;
            case ActivationForm.Gelu:
                Gelu(x, y);
                break;
            case ActivationForm.TanhGelu:
                TanhGelu(x, y);
                break;
            case ActivationForm.QuickGelu:
                TensorPrimitives.Multiply(x, 1.702f, y);
                TensorPrimitives.Sigmoid(y, y);
                TensorPrimitives.Multiply(x, y, y);
                break;
            case ActivationForm.Relu:
                TensorPrimitives.Max(x, 0f, y);
                break;
            default:
                TensorPrimitives.Tanh(x, y);
                break;
        }
    }

    private static void Pieces(void* state, long from, long to)
    {
        var work = (Work*)state;
        var scratch = stackalloc float[2 * Piece];
        for (var piece = from; piece < to; piece++)
        {
            var (start, count) = (piece * Piece, (int)Math.Min(Piece, work->Count - (piece * Piece)));
            var result = work->Output.TargetAt(start, count, scratch);
            Apply(work->Form, work->Input.ReadAt(start, count, scratch + Piece), result);
            work->Output.WriteAt(start, result);
        }
    }

    private static void GradientPieces(void* state, long from, long to)
    {
        var work = (Work*)state;
        var scratch = stackalloc float[4 * Piece];
        for (var piece = from; piece < to; piece++)
        {
            var (start, count) = (piece * Piece, (int)Math.Min(Piece, work->Count - (piece * Piece)));
            Span<float> slope = new(scratch, count);
            Slope(work->Form, work->Input.ReadAt(start, count, scratch + Piece), slope, new(scratch + (2 * Piece), 2 * count));
            var given = work->Output.ReadAt(start, count, scratch + Piece);
            var result = work->Output.TargetAt(start, count, scratch + (2 * Piece));
            TensorPrimitives.Multiply(given, slope, result);
            work->Output.WriteAt(start, result);
        }
    }

    /// <summary>By how much the activation grows with its input; scratch holds twice as many. x · s(v(x)) with the sigmoid s grows by s (1 + x (1 - s) v').</summary>
    private static void Slope(ActivationForm form, ReadOnlySpan<float> x, Span<float> y, Span<float> scratch)
    {
        var growth = scratch[..x.Length];
        var rest = scratch[x.Length..];
        switch (form)
        {
            case ActivationForm.Relu:
                for (var i = 0; i < x.Length; i++)
                {
                    y[i] = x[i] > 0 ? 1 : 0;
                }

                return;
            case ActivationForm.Tanh:
                TensorPrimitives.Tanh(x, y);
                TensorPrimitives.Multiply(y, y, y);
                TensorPrimitives.Subtract(1f, y, y);
                return;
            case ActivationForm.TanhGelu:
                var factor = 2 * MathF.Sqrt(2 / MathF.PI);
                TensorPrimitives.Multiply(x, x, growth);
                TensorPrimitives.Multiply(growth, 0.044715f * factor, growth);
                TensorPrimitives.Add(growth, factor, y);
                TensorPrimitives.Multiply(x, y, y);
                TensorPrimitives.Multiply(growth, 3f, growth);
                TensorPrimitives.Add(growth, factor, growth);
                break;
            default:
                var times = form == ActivationForm.QuickGelu ? 1.702f : 1;
                TensorPrimitives.Multiply(x, times, y);
                growth.Fill(times);
                break;
        }

        TensorPrimitives.Sigmoid(y, y);
        TensorPrimitives.Subtract(1f, y, rest);
        TensorPrimitives.Multiply(x, growth, growth);
        TensorPrimitives.Multiply(growth, rest, growth);
        TensorPrimitives.Add(growth, 1f, growth);
        TensorPrimitives.Multiply(y, growth, y);
    }

    /// <summary>Hendrycks and Gimpel 2016, the approximation by tanh: x/2 (1 + tanh(u)) = x · sigmoid(2 u).</summary>
    private static void TanhGelu(ReadOnlySpan<float> x, Span<float> y)
    {
        var factor = 2 * MathF.Sqrt(2 / MathF.PI);
        TensorPrimitives.Multiply(x, x, y);
        TensorPrimitives.Multiply(y, 0.044715f * factor, y);
        TensorPrimitives.Add(y, factor, y);
        TensorPrimitives.Multiply(x, y, y);
        TensorPrimitives.Sigmoid(y, y);
        TensorPrimitives.Multiply(x, y, y);
    }

    /// <summary>With the error function by Abramowitz and Stegun 7.1.26, exact to 1.5e-7.</summary>
    private static void Gelu(ReadOnlySpan<float> x, Span<float> y)
    {
        var i = 0;
        for (; i <= x.Length - Vector<float>.Count; i += Vector<float>.Count)
        {
            Gelu(new Vector<float>(x[i..])).CopyTo(y[i..]);
        }

        if (i < x.Length)
        {
            Span<float> rest = stackalloc float[Vector<float>.Count];
            rest.Clear();
            x[i..].CopyTo(rest);
            Gelu(new Vector<float>(rest)).CopyTo(rest);
            rest[..(x.Length - i)].CopyTo(y[i..]);
        }
    }

    private static Vector<float> Gelu(Vector<float> x)
    {
        var z = Vector.Abs(x) * MathF.Sqrt(0.5f);
        var t = Vector<float>.One / (Vector<float>.One + (z * 0.3275911f));
        var series = Vector.FusedMultiplyAdd(t, new Vector<float>(1.061405429f), new Vector<float>(-1.453152027f));
        series = Vector.FusedMultiplyAdd(series, t, new Vector<float>(1.421413741f));
        series = Vector.FusedMultiplyAdd(series, t, new Vector<float>(-0.284496736f));
        series = Vector.FusedMultiplyAdd(series, t, new Vector<float>(0.254829592f));

        // Half of what is missing to one: the share of the tail beyond |x|.
        var tail = series * t * Vector.Exp(-(z * z)) * 0.5f;
        return x * Vector.ConditionalSelect(Vector.LessThan(x, Vector<float>.Zero), tail, Vector<float>.One - tail);
    }

    private struct Work
    {
        public ActivationForm Form;
        public CpuRows Input;
        public CpuRows Output;
        public long Count;
    }
}
