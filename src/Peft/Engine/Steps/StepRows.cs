using static TorchSharp.torch;

namespace Peft.Engine.Steps;

/// <summary>Weights in whatever form, of which a product of one input reads row after row, a sum each: [rows, in], or those of several experts one below the other.</summary>
internal abstract unsafe class StepRows
{
    /// <summary>Number of rows.</summary>
    public abstract long Count { get; }

    /// <summary>Rows that are worth a thread of their own.</summary>
    public abstract long Grain { get; }

    /// <summary>Rows that are summed together at most.</summary>
    public virtual int Most => ProductOutput.Most;

    /// <summary>Memory that an input in order takes, with what summing needs beside it.</summary>
    public abstract int ScratchFloats { get; }

    /// <summary>Where rows lie, and how many bytes they are; nothing where they aren't read one after another.</summary>
    /// <param name="from">The first row.</param>
    /// <param name="to">The row after the last.</param>
    public abstract (nint Start, long Bytes) Memory(long from, long to);

    /// <summary>Puts an input in the order in which rows are read.</summary>
    /// <param name="x">Inputs.</param>
    /// <param name="row">Which of them.</param>
    /// <param name="scratch">As many floats as <see cref="ScratchFloats"/> says, aligned to 64 bytes; what it gives may lie there.</param>
    public abstract float* Arrange(CpuRows x, long row, float* scratch);

    /// <summary>The sums of some rows, at most <see cref="Most"/>.</summary>
    /// <param name="from">The first row.</param>
    /// <param name="count">How many.</param>
    /// <param name="input">What <see cref="Arrange"/> gave.</param>
    /// <param name="sums">Takes them.</param>
    public abstract void Sum(long from, int count, float* input, float* sums);
}

/// <summary>Dense weights that lie row by row.</summary>
/// <param name="weight">[out, in] or [experts, out, in], contiguous.</param>
internal sealed unsafe class DenseRows(Tensor weight) : StepRows
{
    private readonly CpuRows _weight = CpuRows.Of(weight, weight.size(-1));
    private readonly long _width = weight.size(-1);

    public override long Count { get; } = weight.NumberOfElements / Math.Max(1, weight.size(-1));

    public override long Grain { get; } = Math.Max(1, (1 << 13) / Math.Max(1, weight.size(-1)));

    public override int ScratchFloats { get; } = (int)weight.size(-1);

    public override (nint Start, long Bytes) Memory(long from, long to) => ((nint)_weight.Row(from), (nint)_weight.Row(to) - (nint)_weight.Row(from));

    public override float* Arrange(CpuRows x, long row, float* scratch) => RowProduct.Input(x, row, _width, scratch);

    public override void Sum(long from, int count, float* input, float* sums) => RowProduct.Dots(_weight, from, count, input, _width, sums);
}

/// <summary>Dense weights of experts that lie column by column.</summary>
/// <param name="weight">[experts, in, out], contiguous.</param>
internal sealed unsafe class DenseColumns(Tensor weight) : StepRows
{
    private readonly byte* _start = Tensors.TensorMemory.Pointer(weight);
    private readonly bool _isBFloat16 = weight.dtype == ScalarType.BFloat16;
    private readonly long _width = weight.size(1);
    private readonly long _columns = weight.size(2);

    public override long Count { get; } = weight.size(0) * weight.size(2);

    public override long Grain { get; } = Math.Max(1, (1 << 13) / Math.Max(1, weight.size(1)));

    // A stretch of each of the rows, which are far apart.
    public override int Most => 8 * ProductOutput.Most;

    public override int ScratchFloats => (int)_width + Most;

    public override (nint Start, long Bytes) Memory(long from, long to) => default;

    public override float* Arrange(CpuRows x, long row, float* scratch)
    {
        x.Read(row, (int)_width, scratch).CopyTo(new Span<float>(scratch, (int)_width));
        return scratch;
    }

    public override void Sum(long from, int count, float* input, float* sums)
    {
        var first = ((from / _columns) * _width * _columns) + (from % _columns);
        var rows = CpuRows.At(_start + (first * (_isBFloat16 ? sizeof(ushort) : sizeof(float))), _columns, _isBFloat16);
        var own = _isBFloat16 ? input + _width : sums;
        ColumnProduct.AddRows(rows, input, 0, _width, own, count);
        if (_isBFloat16)
        {
            ColumnProduct.InOrder(own, sums, count);
        }
    }
}
