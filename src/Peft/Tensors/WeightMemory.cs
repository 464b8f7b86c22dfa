using System.Diagnostics;
using Peft.Engine;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tensors;

/// <summary>
/// Memory for weights that can't stay in their files: a few large blocks of which each weight is a view, on large pages where the system has them (Linux,
/// unless it is told never to). Filling fresh memory takes as long as its pages are many: a third of the time where they are large. And the
/// C library gives large blocks back to the system when the model is freed. A block lives as long as one of its weights, so that it isn't larger than
/// <see cref="BlockBytes"/> unless a single weight is.
/// </summary>
internal sealed class WeightMemory : IDisposable
{
    /// <summary>Bytes of a block that several weights share; more than glibc ever keeps for itself when they are freed (32 MB).</summary>
    public const long BlockBytes = 64L << 20;

    /// <summary>Weights of fewer bytes have memory of their own: norms stay when the layers around them are packed, and would keep a block.</summary>
    private const long SmallestBytes = 1L << 18;

    // Where libtorch's own memory begins as well.
    private const long AlignmentBytes = 64;

    // Of the touches of fresh memory: a large page takes 0.05 to 0.3 ms. Others than pages may be slow now and then, on a busy machine.
    private const int SlowestTouches = 3;
    private static readonly TimeSpan s_slow = TimeSpan.FromMilliseconds(1.5);

    private readonly Dictionary<ScalarType, Block> _open = [];
    private readonly List<(nint Start, long Bytes)> _places = [];
    private int _slowTouches;

    /// <summary>Makes a tensor without values.</summary>
    /// <param name="shape">Sizes, outermost first.</param>
    /// <param name="type">The type.</param>
    /// <param name="device">Where it lies.</param>
    public Tensor Empty(IReadOnlyList<long> shape, ScalarType type, Device device)
    {
        long count = TensorEntry.Product(shape), size = ElementType.SizeOf(type);
        if (!OperatingSystem.IsLinux() || device.type != DeviceType.CPU || count * size < SmallestBytes)
        {
            return empty([.. shape], type, device);
        }

        if (count * size > BlockBytes / 2)
        {
            using var own = Make(count, type, size);
            return own.Take(count, shape);
        }

        if (!_open.TryGetValue(type, out var block) || block.Left < count)
        {
            block?.Dispose();
            _open[type] = block = Make(BlockBytes / size, type, size);
        }

        var alignment = AlignmentBytes / size;
        return block.Take((count + alignment - 1) / alignment * alignment, shape);
    }

    /// <summary>
    /// Touches fresh memory that is filled next, by any thread. Where this is slow, pages become small: the host of a virtual machine takes large ones back that were free for some
    /// seconds, and brings them again 4 KB by 4 KB (2.4 ms), but leaves small ones that were used before.
    /// </summary>
    /// <param name="address">An address that nobody has written to.</param>
    public unsafe void Touch(nint address)
    {
        var before = Stopwatch.GetTimestamp();
        Volatile.Write(ref *(byte*)address, 0);
        if (Stopwatch.GetElapsedTime(before) > s_slow && Interlocked.Increment(ref _slowTouches) == SlowestTouches)
        {
            // Those who fill memory don't make any meanwhile.
            foreach (var (start, bytes) in _places)
            {
                MappedPages.Choose(start, bytes, areLarge: false);
            }
        }
    }

    /// <summary>Lets go of the blocks; their weights keep them.</summary>
    public void Dispose()
    {
        foreach (var block in _open.Values)
        {
            block.Dispose();
        }

        _open.Clear();
    }

    private Block Make(long count, ScalarType type, long size)
    {
        using var whole = empty(count + (MappedPages.LargePageBytes / size), type);
        var address = TensorMemory.Address(whole);
        var start = (MappedPages.LargePageBytes - (address % MappedPages.LargePageBytes)) % MappedPages.LargePageBytes / size;
        var place = (address + (nint)(start * size), count * size);
        _places.Add(place);
        if (_slowTouches < SlowestTouches)
        {
            MappedPages.Choose(place.Item1, place.Item2, areLarge: true);
        }

        return new Block(whole.narrow(0, start, count).DetachFromDisposeScope());
    }

    /// <summary>Elements that begin with a large page, of which the first are taken.</summary>
    private sealed class Block(Tensor elements) : IDisposable
    {
        private long _taken;

        public long Left => elements.NumberOfElements - _taken;

        public Tensor Take(long count, IReadOnlyList<long> shape)
        {
            using var part = elements.narrow(0, _taken, TensorEntry.Product(shape));
            _taken += Math.Min(count, Left);
            return part.view([.. shape]);
        }

        public void Dispose() => elements.Dispose();
    }
}
