using Peft.Engine.Steps;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Engine.Cuda;

/// <summary>An operation of a recorded step that starts a kernel.</summary>
/// <param name="device">Runs it.</param>
/// <param name="kernel">The kernel's name.</param>
/// <param name="type">The type of elements.</param>
/// <param name="shape">How many blocks, of how many threads each.</param>
/// <param name="arguments">What the kernel is given.</param>
internal class LaunchOperation<T>(KernelDevice device, string kernel, ScalarType type, (long Blocks, int Threads) shape, T arguments) : StepOperation
    where T : unmanaged
{
    private T _arguments = arguments;

    /// <summary>What runs it.</summary>
    protected KernelDevice Device => device;

    /// <summary>What the kernel is given, where it differs from token to token.</summary>
    protected ref T Arguments => ref _arguments;

    public sealed override long Parts => 1;

    public sealed override bool IsLaunched => true;

    public sealed override unsafe void Run(long from, long to, float* scratch) => device.Launch(kernel, type, _arguments, shape.Blocks, shape.Threads);
}

/// <summary>As <see cref="RotateOperation"/>.</summary>
internal sealed class LaunchedRotation(KernelDevice device, ScalarType type, IStepAttention pass, (long Blocks, int Threads) shape, KernelArguments.Rotate arguments)
    : LaunchOperation<KernelArguments.Rotate>(device, "rotate", type, shape, arguments)
{
    private readonly bool _stores = arguments.Keys != 0;
    private Tensor? _stored;

    // Only held: its memory is read until the next token.
    private (Tensor Cosine, Tensor Sine, bool IsInterleaved)? _tables;

    public override void Prepare()
    {
        ref var own = ref Arguments;
        own.Rotation = default;
        _tables = pass.Tables;
        if (_tables is var (cosine, sine, isInterleaved))
        {
            own.Rotation = new KernelArguments.Rotation { Cosine = Device.Address(cosine), Sine = Device.Address(sine), Size = (int)cosine.NumberOfElements, IsInterleaved = isInterleaved ? 1 : 0 };
        }

        if (_stores)
        {
            var (keys, values) = pass.Stored;
            own.Position = pass.Position;
            if (!ReferenceEquals(keys, _stored))
            {
                _stored = keys;
                (own.StoredKeys, own.StoredValues, own.Capacity) = (Device.Address(keys), Device.Address(values), keys.size(2));
            }
        }
    }
}

/// <summary>As <see cref="AttendOperation"/>.</summary>
internal sealed class LaunchedAttention(KernelDevice device, ScalarType type, IStepAttention pass, (long Blocks, int Threads) shape, KernelArguments.Attend arguments)
    : LaunchOperation<KernelArguments.Attend>(device, "attend", type, shape, arguments)
{
    private Tensor? _stored;

    // Only held: their memory is read until the next token.
    private Tensor? _mask;
    private Tensor? _bias;

    public override void Prepare()
    {
        ref var own = ref Arguments;
        var (keys, values) = pass.Stored;
        if (!ReferenceEquals(keys, _stored))
        {
            _stored = keys;
            (own.Keys, own.Values, own.Capacity) = (Device.Address(keys), Device.Address(values), keys.size(2));
        }

        (var first, var count, _mask) = pass.Seen;
        _bias = pass.Bias;
        (own.First, own.Count) = ((int)first, (int)count);
        (own.Mask, own.Masked) = _mask is null ? (0, 0) : (Device.Address(_mask), (int)_mask.size(-1));
        (own.Bias, own.BiasKeys) = _bias is null ? (0, 0) : (Device.Address(_bias), _bias.size(-1));
    }
}

/// <summary>An operation with memory of its own, which is freed with it.</summary>
/// <param name="operation">The operation.</param>
/// <param name="memory">Not of a dispose scope.</param>
internal sealed class OwningOperation(StepOperation operation, Tensor memory) : StepOperation
{
    public override long Parts => operation.Parts;

    public override bool IsLaunched => operation.IsLaunched;

    public override void Prepare() => operation.Prepare();

    public override unsafe void Run(long from, long to, float* scratch) => operation.Run(from, to, scratch);

    protected override void Free()
    {
        operation.Dispose();
        memory.Dispose();
    }
}
