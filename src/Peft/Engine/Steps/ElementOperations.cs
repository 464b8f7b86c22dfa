using System.Numerics.Tensors;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine.Steps;

/// <summary>Work on the elements of a row, in pieces.</summary>
/// <param name="count">Elements.</param>
internal abstract unsafe class ElementOperation(long count) : StepOperation
{
    /// <summary>Elements of a piece.</summary>
    protected const int Piece = 256;

    public override long Parts { get; } = (count + Piece - 1) / Piece;

    public override long Grain => 2;

    public override int ScratchFloats => 3 * Piece;

    public override void Run(long from, long to, float* scratch)
    {
        for (var part = from; part < to; part++)
        {
            Run(part * Piece, (int)Math.Min(Piece, count - (part * Piece)), scratch);
        }
    }

    /// <summary>Does the elements of a piece.</summary>
    protected abstract void Run(long start, int length, float* scratch);
}

/// <summary>left + scale · right.</summary>
internal sealed unsafe class SumOperation(Tensor left, Tensor right, Tensor y, float scale) : ElementOperation(y.NumberOfElements)
{
    private readonly CpuRows _left = CpuRows.Of(left, 1);
    private readonly CpuRows _right = CpuRows.Of(right, 1);
    private readonly CpuRows _y = CpuRows.Of(y, 1);

    protected override void Run(long start, int length, float* scratch)
    {
        var sum = _y.TargetAt(start, length, scratch);
        TensorPrimitives.MultiplyAdd(_right.ReadAt(start, length, scratch + Piece), scale, _left.ReadAt(start, length, scratch + (2 * Piece)), sum);
        _y.WriteAt(start, sum);
    }
}

/// <summary>factor · x.</summary>
internal sealed unsafe class ScalingOperation(Tensor x, Tensor y, float factor) : ElementOperation(y.NumberOfElements)
{
    private readonly CpuRows _x = CpuRows.Of(x, 1);
    private readonly CpuRows _y = CpuRows.Of(y, 1);

    protected override void Run(long start, int length, float* scratch)
    {
        var scaled = _y.TargetAt(start, length, scratch);
        TensorPrimitives.Multiply(_x.ReadAt(start, length, scratch + Piece), factor, scaled);
        _y.WriteAt(start, scaled);
    }
}

/// <summary>x · sigmoid(gate), with one gate for all.</summary>
internal sealed unsafe class SigmoidGateOperation(Tensor x, Tensor gate, Tensor y) : ElementOperation(y.NumberOfElements)
{
    private readonly CpuRows _x = CpuRows.Of(x, 1);
    private readonly CpuRows _gate = CpuRows.Of(gate, 1);
    private readonly CpuRows _y = CpuRows.Of(y, 1);

    protected override void Run(long start, int length, float* scratch)
    {
        var open = 1 / (1 + MathF.Exp(-_gate.Get(0)));
        open = _y.IsBFloat16 ? CpuRows.Widen(CpuRows.Narrow(open)) : open;
        var gated = _y.TargetAt(start, length, scratch);
        TensorPrimitives.Multiply(_x.ReadAt(start, length, scratch + Piece), open, gated);
        _y.WriteAt(start, gated);
    }
}

/// <summary>act(x), or act(gate) · up of gate and up side by side.</summary>
/// <param name="x">[1, width], or [1, 2 · width] with a gate.</param>
/// <param name="y">[1, width].</param>
/// <param name="form">The activation.</param>
/// <param name="isGated">Whether there is a gate.</param>
internal sealed unsafe class ActivationOperation(Tensor x, Tensor y, ActivationForm form, bool isGated) : ElementOperation(y.NumberOfElements)
{
    private readonly CpuRows _x = CpuRows.Of(x, 1);
    private readonly CpuRows _y = CpuRows.Of(y, 1);
    private readonly long _width = y.NumberOfElements;

    protected override void Run(long start, int length, float* scratch)
    {
        var result = _y.TargetAt(start, length, scratch);
        ActivationKernel.Apply(form, _x.ReadAt(start, length, scratch + Piece), result);
        if (isGated)
        {
            TensorPrimitives.Multiply(result, _x.ReadAt(_width + start, length, scratch + Piece), result);
        }

        _y.WriteAt(start, result);
    }
}

/// <summary>Stretches of memory that are put elsewhere.</summary>
internal sealed unsafe class CopyOperation : StepOperation
{
    private readonly List<(nint From, nint To, long Bytes)> _stretches = [];

    /// <summary>Adds a stretch.</summary>
    /// <param name="from">Contiguous.</param>
    /// <param name="fromElement">Where it begins there.</param>
    /// <param name="to">Contiguous, of the same type.</param>
    /// <param name="toElement">Where it goes.</param>
    /// <param name="count">Elements.</param>
    public void Add(Tensor from, long fromElement, Tensor to, long toElement, long count)
    {
        var size = from.ElementSize;
        _stretches.Add(((nint)(Tensors.TensorMemory.Pointer(from) + (fromElement * size)), (nint)(Tensors.TensorMemory.Pointer(to) + (toElement * size)), count * size));
    }

    public override long Parts => _stretches.Count;

    public override long Grain => 8;

    public override void Run(long from, long to, float* scratch)
    {
        for (var part = (int)from; part < to; part++)
        {
            var (source, target, bytes) = _stretches[part];
            Buffer.MemoryCopy((void*)source, (void*)target, bytes, bytes);
        }
    }
}
