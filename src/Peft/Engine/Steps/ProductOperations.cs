using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine.Steps;

/// <summary>Where the elements of a product go: rounded to the output's type, the bias added, then the residual, as the engine's operators round after each.</summary>
internal readonly unsafe struct ProductOutput
{
    private readonly CpuRows _result;
    private readonly CpuRows _bias;
    private readonly CpuRows _residual;
    private readonly bool _hasBias;
    private readonly bool _hasResidual;
    private readonly long _start;

    private ProductOutput(CpuRows result, CpuRows? bias, CpuRows? residual, long start)
    {
        (_result, _bias, _residual) = (result, bias ?? default, residual ?? default);
        (_hasBias, _hasResidual, _start) = (bias is not null, residual is not null, start);
    }

    /// <summary>Makes it for whole tensors.</summary>
    /// <param name="result">[1, out].</param>
    /// <param name="bias">[out] or null.</param>
    /// <param name="residual">[1, out] or null.</param>
    public static ProductOutput Of(Tensor result, Tensor? bias, Tensor? residual) => new(Elements(result), bias is null ? null : Elements(bias), residual is null ? null : Elements(residual), 0);

    /// <summary>The elements from one on.</summary>
    public ProductOutput From(long column) => new(_result, _hasBias ? _bias : null, _hasResidual ? _residual : null, _start + column);

    /// <summary>Elements that are put together.</summary>
    public const int Most = 64;

    /// <summary>Puts elements.</summary>
    /// <param name="column">The first of them.</param>
    /// <param name="values">At most <see cref="Most"/>; they are changed.</param>
    public void Put(long column, Span<float> values)
    {
        column += _start;
        var scratch = stackalloc float[Most];
        if (_hasBias)
        {
            Round(values);
            TensorPrimitives.Add(values, _bias.ReadAt(column, values.Length, scratch), values);
        }

        if (_hasResidual)
        {
            Round(values);
            TensorPrimitives.Add(values, _residual.ReadAt(column, values.Length, scratch), values);
        }

        values.CopyTo(_result.TargetAt(column, values.Length, scratch));
        _result.WriteAt(column, values);
    }

    private static CpuRows Elements(Tensor tensor) => CpuRows.Of(tensor, 1);

    private void Round(Span<float> values)
    {
        if (_result.IsBFloat16)
        {
            CpuRows.Round(values);
        }
    }
}

/// <summary>A product whose elements are sums over a row of weights each.</summary>
/// <param name="rows">The weights.</param>
/// <param name="x">[1, in].</param>
/// <param name="output">Takes the elements.</param>
internal sealed unsafe class ProductOperation(StepRows rows, Tensor x, ProductOutput output) : StepOperation
{
    private readonly CpuRows _x = CpuRows.Of(x, x.size(1));

    public override long Parts => rows.Count;

    public override long Grain => rows.Grain;

    public override int ScratchFloats => rows.ScratchFloats;

    public override (nint Start, long Bytes) Weights(long from, long to) => rows.Memory(from, to);

    public override void Run(long from, long to, float* scratch)
    {
        var sums = stackalloc float[ProductOutput.Most];
        var input = rows.Arrange(_x, 0, scratch);
        for (; from < to; from += ProductOutput.Most)
        {
            var count = (int)Math.Min(ProductOutput.Most, to - from);
            rows.Sum(from, count, input, sums);
            output.Put(from, new Span<float>(sums, count));
        }
    }
}

/// <summary>The sums of a product with weights that lie column by column, of some rows each.</summary>
internal sealed unsafe class ColumnSumsOperation : StepOperation
{
    private readonly CpuRows _x;
    private readonly CpuRows _weight;
    private readonly long _height;

    /// <param name="x">[1, in].</param>
    /// <param name="rows">The weights, [in, out].</param>
    public ColumnSumsOperation(Tensor x, Tensor rows)
    {
        (_height, Width) = (rows.size(0), rows.size(1));
        (_x, _weight) = (CpuRows.Of(x, _height), CpuRows.Of(rows, Width));
        Parts = Math.Clamp(_height, 1, ComputeThreads.Count);
        Sums = (float*)NativeMemory.AlignedAlloc((nuint)(Parts * Stride) * sizeof(float), 64);
    }

    /// <summary>Columns.</summary>
    public long Width { get; }

    /// <summary>From one part's sums to the next's: no two in a cache line.</summary>
    public long Stride => (Width + 31) / 16 * 16;

    /// <summary>The sums of the parts, in the order of <see cref="ColumnProduct.AddRows"/>.</summary>
    public float* Sums { get; private set; }

    /// <summary>Whether weights are bfloat16.</summary>
    public bool IsBFloat16 => _weight.IsBFloat16;

    public override long Parts { get; }

    public override int ScratchFloats => (int)_height;

    public override void Run(long from, long to, float* scratch)
    {
        fixed (float* input = _x.Read(0, (int)_height, scratch))
        {
            for (var part = from; part < to; part++)
            {
                ColumnProduct.AddRows(_weight, input, _height * part / Parts, _height * (part + 1) / Parts, Sums + (part * Stride), Width);
            }
        }
    }

    protected override void Free()
    {
        NativeMemory.AlignedFree(Sums);
        Sums = null;
    }
}

/// <summary>The elements of a product from its parts' sums.</summary>
internal sealed unsafe class ColumnEndOperation(ColumnSumsOperation sums, ProductOutput output) : StepOperation
{
    // A multiple of every block of lanes.
    private const long Columns = ProductOutput.Most;

    public override long Parts { get; } = (sums.Width + Columns - 1) / Columns;

    public override long Grain => 2;

    public override int ScratchFloats => 2 * (int)Columns;

    public override void Run(long from, long to, float* scratch)
    {
        for (var part = from; part < to; part++)
        {
            var start = part * Columns;
            var count = Math.Min(Columns, sums.Width - start);
            var total = new Span<float>(scratch, (int)count);
            new ReadOnlySpan<float>(sums.Sums + start, (int)count).CopyTo(total);
            for (var other = 1; other < sums.Parts; other++)
            {
                TensorPrimitives.Add(total, new ReadOnlySpan<float>(sums.Sums + (other * sums.Stride) + start, (int)count), total);
            }

            var ordered = sums.IsBFloat16 ? ColumnProduct.InOrder(scratch, scratch + Columns, count) : scratch;
            output.Put(start, new Span<float>(ordered, (int)count));
        }
    }
}

/// <summary>What low-rank changes add to a product: y[columns] += scale · B h, of h = A x.</summary>
/// <param name="inner">h of all changes, [1, ranks].</param>
/// <param name="y">[1, out].</param>
/// <param name="b">[columns, rank].</param>
/// <param name="column">The first of the columns.</param>
/// <param name="rankStart">Where h of this change begins.</param>
/// <param name="scale">Multiplies the change.</param>
internal sealed unsafe class LowRankOperation(Tensor inner, Tensor y, Tensor b, long column, long rankStart, float scale) : StepOperation
{
    private readonly CpuRows _inner = CpuRows.Of(inner, 1);
    private readonly CpuRows _y = CpuRows.Of(y, 1);
    private readonly CpuRows _b = CpuRows.Of(b, b.size(1));
    private readonly long _rank = b.size(1);

    public override long Parts { get; } = b.size(0);

    public override long Grain => 64;

    public override int ScratchFloats { get; } = (2 * (int)b.size(1)) + 64;

    public override void Run(long from, long to, float* scratch)
    {
        var own = _inner.Part(rankStart, _rank);
        var input = RowProduct.Input(own, 0, _rank, scratch);
        for (var row = from; row < to; row++)
        {
            _y.Put(column + row, _y.Get(column + row) + (scale * RowProduct.Dot(_b, row, input, _rank)));
        }
    }
}
