using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine.Steps;

/// <summary>The root mean square norm of a row, or of each of its heads, as <see cref="NormKernel"/> forms it.</summary>
/// <param name="x">[rows, width].</param>
/// <param name="weight">[width], of the same type.</param>
/// <param name="y">Of the input's shape.</param>
/// <param name="width">Width of a row.</param>
/// <param name="epsilon">Added to the mean square.</param>
internal sealed unsafe class RmsNormOperation(Tensor x, Tensor weight, Tensor y, int width, double epsilon) : StepOperation
{
    private readonly CpuRows _x = CpuRows.Of(x, width);
    private readonly CpuRows _y = CpuRows.Of(y, width);
    private readonly CpuRows _weight = CpuRows.Of(weight, width);

    public override long Parts { get; } = x.NumberOfElements / width;

    public override long Grain { get; } = Math.Max(1, 512 / width);

    public override bool IsRepeated => Parts == 1;

    public override int ScratchFloats => 3 * width;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override void Run(long from, long to, float* scratch)
    {
        ReadOnlySpan<float> weight = _weight.Read(0, width, scratch + (2 * width));
        for (var row = from; row < to; row++)
        {
            var y = new Span<float>(scratch + width, width);
            NormKernel.RootMeanSquareRow(_x.Read(row, width, scratch), weight, y, epsilon);
            y.CopyTo(_y.Target(row, width, scratch + width));
            _y.Write(row, y);
        }
    }
}

/// <summary>The layer norm of a row, as <see cref="LayerNormKernel"/> forms it.</summary>
/// <param name="x">[rows, width].</param>
/// <param name="weight">[width], float32.</param>
/// <param name="bias">[width], float32, or null.</param>
/// <param name="y">Of the input's shape.</param>
/// <param name="width">Width of a row.</param>
/// <param name="epsilon">Added to the variance.</param>
internal sealed unsafe class LayerNormOperation(Tensor x, Tensor weight, Tensor? bias, Tensor y, int width, double epsilon) : StepOperation
{
    private readonly CpuRows _x = CpuRows.Of(x, width);
    private readonly CpuRows _y = CpuRows.Of(y, width);
    private readonly float* _weight = (float*)Tensors.TensorMemory.Pointer(weight);
    private readonly float* _bias = bias is null ? null : (float*)Tensors.TensorMemory.Pointer(bias);

    public override long Parts { get; } = x.NumberOfElements / width;

    public override long Grain { get; } = Math.Max(1, 512 / width);

    public override bool IsRepeated => Parts == 1;

    public override int ScratchFloats => 2 * width;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override void Run(long from, long to, float* scratch)
    {
        for (var row = from; row < to; row++)
        {
            var y = new Span<float>(scratch + width, width);
            LayerNormKernel.Norm(_x.Read(row, width, scratch), y, epsilon);
            TensorPrimitives.Multiply(y, new ReadOnlySpan<float>(_weight, width), y);
            if (_bias is not null)
            {
                TensorPrimitives.Add(y, new ReadOnlySpan<float>(_bias, width), y);
            }

            y.CopyTo(_y.Target(row, width, scratch + width));
            _y.Write(row, y);
        }
    }
}
