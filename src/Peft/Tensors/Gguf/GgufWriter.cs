using System.Buffers.Binary;
using System.Text;
using Peft.Files;
using static TorchSharp.torch;

namespace Peft.Tensors.Gguf;

/// <summary>A tensor to write: its values are asked for when their turn comes.</summary>
/// <param name="Name">The name in the file.</param>
/// <param name="Shape">Sizes, outermost first.</param>
/// <param name="Type">How it is stored.</param>
/// <param name="Read">Gives the values, or the bytes of the type's blocks as uint8; the writer frees them.</param>
internal sealed record GgufOutput(string Name, IReadOnlyList<long> Shape, GgufType Type, Func<Tensor> Read)
{
    /// <summary>How it would be stored if that type's blocks filled its rows; null where nothing was asked for.</summary>
    public GgufType? Intended { get; init; }

    /// <summary>By how much an error in each column counts; null where nothing is known of it.</summary>
    public float[]? Importance { get; init; }

    /// <summary>Bytes in the file, without what fills up to the alignment.</summary>
    public long Length => TensorEntry.Product(Shape) / Type.BlockValues * Type.BlockBytes;
}

/// <summary>Writes GGUF files of version 3, whole or not at all.</summary>
internal static class GgufWriter
{
    private const int Alignment = 32;

    /// <summary>Writes a file.</summary>
    /// <param name="path">The file to create or replace.</param>
    /// <param name="metadata">Keys with numbers, truth values, texts and arrays of them.</param>
    /// <param name="tensors">The tensors, one in memory at a time.</param>
    /// <param name="onProgress">Sees the bytes of tensors that are written, and how many there are.</param>
    /// <param name="cancellation">Looked at before each tensor; what was there stays as it was.</param>
    /// <exception cref="PeftException">What writing a file throws.</exception>
    public static void Write(
        string path, IReadOnlyList<(string Key, object Value)> metadata, IReadOnlyList<GgufOutput> tensors, Action<long, long>? onProgress = null, CancellationToken cancellation = default) =>
        AtomicFile.Write(path, stream =>
        {
            using var writer = new BinaryWriter(stream, Encoding.UTF8, leaveOpen: true);
            writer.Write("GGUF"u8);
            writer.Write(3u);
            writer.Write((ulong)tensors.Count);
            writer.Write((ulong)metadata.Count);
            foreach (var (key, value) in metadata)
            {
                Put(writer, key);
                PutValue(writer, value);
            }

            long offset = 0, total = tensors.Sum(static tensor => tensor.Length);
            foreach (var tensor in tensors)
            {
                Put(writer, tensor.Name);
                writer.Write((uint)tensor.Shape.Count);
                foreach (var size in tensor.Shape.Reverse())
                {
                    writer.Write((ulong)size);
                }

                writer.Write(tensor.Type.Number);
                writer.Write((ulong)offset);
                offset = Aligned(offset + tensor.Length);
            }

            writer.Flush();
            var start = Aligned(stream.Position);
            Fill(stream, start - stream.Position);
            long written = 0;
            foreach (var tensor in tensors)
            {
                cancellation.ThrowIfCancellationRequested();
                WriteTensor(stream, tensor);
                Fill(stream, Aligned(stream.Position) - stream.Position);
                onProgress?.Invoke(written += tensor.Length, total);
            }
        });

    /// <summary>Values as a type's bytes.</summary>
    /// <param name="values">float32.</param>
    /// <param name="type">The type.</param>
    /// <param name="importance">By how much an error in each column of a row counts; null where nothing is known of it, or the type takes no heed of it.</param>
    internal static byte[] Quantized(ReadOnlyMemory<float> values, GgufType type, float[]? importance = null)
    {
        var writer = type.Writer!;
        if (importance is not null && type.WeightedWriter is { } weighted)
        {
            var weighedBytes = new byte[values.Length / type.BlockValues * type.BlockBytes];
            Parallel.For(0, values.Length / type.BlockValues, block => weighted(
                values.Span.Slice(block * type.BlockValues, type.BlockValues),
                importance.AsSpan(block * type.BlockValues % importance.Length, type.BlockValues),
                weighedBytes.AsSpan(block * type.BlockBytes, type.BlockBytes)));
            return weighedBytes;
        }

        var bytes = new byte[values.Length / type.BlockValues * type.BlockBytes];
        Parallel.For(0, values.Length / type.BlockValues, block =>
            writer(values.Span.Slice(block * type.BlockValues, type.BlockValues), bytes.AsSpan(block * type.BlockBytes, type.BlockBytes)));
        return bytes;
    }

    private static void WriteTensor(Stream stream, GgufOutput tensor)
    {
        using var scope = NewDisposeScope();
        var values = tensor.Read();
        if (tensor.Type.Reader is not null && values.dtype == ScalarType.Byte)
        {
            TensorMemory.CopyTo(values, stream);
            return;
        }

        if (tensor.Type.Writer is null)
        {
            TensorMemory.CopyTo(values.to(tensor.Type.ScalarType), stream);
            return;
        }

        // Pieces of whole rows, so that no copy is longer than an array can be.
        var step = Math.Max(1, (1 << 26) / values.size(1));
        for (long row = 0; row < values.size(0); row += step)
        {
            using var inner = NewDisposeScope();
            var piece = values.narrow(0, row, Math.Min(step, values.size(0) - row));
            stream.Write(Quantized(piece.to(ScalarType.Float32).cpu().contiguous().data<float>().ToArray(), tensor.Type, tensor.Importance));
        }
    }

    private static long Aligned(long position) => (position + Alignment - 1) / Alignment * Alignment;

    private static void Fill(Stream stream, long count) => stream.Write(new byte[count]);

    private static void Put(BinaryWriter writer, string text)
    {
        var bytes = Encoding.UTF8.GetBytes(text);
        writer.Write((ulong)bytes.Length);
        writer.Write(bytes);
    }

    private static void PutValue(BinaryWriter writer, object value)
    {
        if (value is Array array)
        {
            writer.Write((uint)GgufValueType.Array);
            writer.Write((uint)TypeOf(array.GetType().GetElementType()!));
            writer.Write((ulong)array.Length);
            foreach (var entry in array)
            {
                PutScalar(writer, entry!);
            }

            return;
        }

        writer.Write((uint)TypeOf(value.GetType()));
        PutScalar(writer, value);
    }

    private static GgufValueType TypeOf(Type type) => Type.GetTypeCode(type) switch
    {
        TypeCode.UInt32 => GgufValueType.UInt32,
        TypeCode.Int32 => GgufValueType.Int32,
        TypeCode.UInt64 => GgufValueType.UInt64,
        TypeCode.Single => GgufValueType.Float32,
        TypeCode.Boolean => GgufValueType.Bool,
        TypeCode.String => GgufValueType.String,
        _ => throw new ArgumentException($"GGUF metadata of the type {type.Name} is not written.", nameof(type)),
    };

    private static void PutScalar(BinaryWriter writer, object value)
    {
        Span<byte> bytes = stackalloc byte[8];
        switch (value)
        {
            case string text:
                Put(writer, text);
                return;
            case bool flag:
                writer.Write(flag);
                return;
            case uint number:
                writer.Write(number);
                return;
            case int number:
                writer.Write(number);
                return;
            case ulong number:
                writer.Write(number);
                return;
            default:
                BinaryPrimitives.WriteSingleLittleEndian(bytes, (float)value);
                writer.Write(bytes[..4]);
                return;
        }
    }
}
