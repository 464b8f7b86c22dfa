using System.Buffers;
using System.Numerics.Tensors;
using Peft.Engine;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Tensors;

/// <summary>Where a tensor's values lie in a file, one behind the other.</summary>
/// <param name="File">The file.</param>
/// <param name="Offset">The first byte, counted from the start of the file.</param>
/// <param name="Type">Type of the values.</param>
internal sealed record StoredPlace(SafetensorsFile File, long Offset, ScalarType Type);

/// <summary>
/// Values of files on their way to their places in memory, in another type where that is asked for. They wait until there are enough for all threads; each of
/// these reads a piece that stays in its cache and converts it from there, so that values cross the memory once, and no page of a file is mapped for it.
/// </summary>
/// <param name="memory">What is filled.</param>
/// <param name="cancellation">Looked at between pieces.</param>
internal sealed unsafe class StoredReads(WeightMemory memory, CancellationToken cancellation)
{
    private const int PieceBytes = 1 << 18;
    private const long WorthBytes = 32L << 20;

    private readonly List<Piece> _pieces = [];
    private readonly HashSet<SafetensorsFile> _files = [];
    private long _bytes;

    /// <summary>Whether values of a type can be converted to another on the way.</summary>
    public static bool Converts(ScalarType from, ScalarType to) => from == to || (from, to) is
        (ScalarType.BFloat16 or ScalarType.Float16, ScalarType.Float32) or (ScalarType.Float32, ScalarType.BFloat16 or ScalarType.Float16);

    /// <summary>Has values read into a tensor, at the latest when <see cref="Run"/> returns.</summary>
    /// <param name="place">Where they lie.</param>
    /// <param name="first">The first of them, counted from there.</param>
    /// <param name="target">Takes them: contiguous, on the CPU, of a type that they can be converted to. Its memory has to stay until then.</param>
    public void Add(StoredPlace place, long first, Tensor target)
    {
        var (size, targetSize) = (ElementType.SizeOf(place.Type), (int)target.ElementSize);
        var (address, length, offset) = (TensorMemory.Address(target), target.NumberOfElements * size, place.Offset + (first * size));
        if (length > 0)
        {
            place.File.ReadAhead(offset, length);
        }

        for (long done = 0; done < length; done += PieceBytes)
        {
            _pieces.Add(new Piece(place.File, offset + done, (int)Math.Min(PieceBytes, length - done), place.Type, target.dtype, address + (nint)(done / size * targetSize)));
        }

        _files.Add(place.File);
        _bytes += length;
        if (_bytes >= WorthBytes)
        {
            Run();
        }
    }

    /// <summary>Reads what waits.</summary>
    /// <exception cref="PeftException">A file can't be read, became shorter, or was written to meanwhile.</exception>
    public void Run()
    {
        var options = new ParallelOptions { MaxDegreeOfParallelism = ComputeThreads.Count, CancellationToken = cancellation };
        try
        {
            Parallel.For(
                0,
                _pieces.Count,
                options,
                static () => ArrayPool<byte>.Shared.Rent(PieceBytes),
                (int i, ParallelLoopState _, byte[] buffer) => Read(_pieces[i], buffer),
                static buffer => ArrayPool<byte>.Shared.Return(buffer));
        }
        catch (AggregateException error)
        {
            throw error.InnerExceptions.OfType<PeftException>().FirstOrDefault() ?? error.InnerException!;
        }

        foreach (var file in _files)
        {
            file.RefuseChange();
        }

        _pieces.Clear();
        _files.Clear();
        _bytes = 0;
    }

    private byte[] Read(Piece piece, byte[] buffer)
    {
        memory.Touch(piece.Target);
        if (piece.From == piece.To)
        {
            piece.File.ReadAt(new Span<byte>((void*)piece.Target, piece.Bytes), piece.Offset);
            return buffer;
        }

        var bytes = buffer.AsSpan(0, piece.Bytes);
        piece.File.ReadAt(bytes, piece.Offset);
        fixed (byte* from = bytes)
        {
            Convert(piece, from);
        }

        return buffer;
    }

    private static void Convert(Piece piece, byte* from)
    {
        var count = piece.Bytes / ElementType.SizeOf(piece.From);
        switch (piece.From, piece.To)
        {
            case (ScalarType.BFloat16, _):
                CpuRows.Widen((ushort*)from, (float*)piece.Target, count);
                break;
            case (ScalarType.Float16, _):
                TensorPrimitives.ConvertToSingle(new ReadOnlySpan<Half>(from, count), new Span<float>((void*)piece.Target, count));
                break;
            case (_, ScalarType.BFloat16):
                CpuRows.Narrow((float*)from, (ushort*)piece.Target, count);
                break;
            default:
                TensorPrimitives.ConvertToHalf(new ReadOnlySpan<float>(from, count), new Span<Half>((void*)piece.Target, count));
                break;
        }
    }

    private readonly record struct Piece(SafetensorsFile File, long Offset, int Bytes, ScalarType From, ScalarType To, nint Target);
}
