using System.Buffers.Binary;
using System.Text;
using Peft.Files;

namespace Peft.Training.Reports;

/// <summary>
/// Writes a training's figures as TensorBoard reads them: a file of records (length, masked CRC-32C of it, bytes, masked CRC-32C of them), each an <c>Event</c> in Protocol Buffers
/// with the wall time, the step, and a <c>Summary</c> of simple values. Tags are those of transformers' callback (<c>train/loss</c>, <c>eval/loss</c>).
/// </summary>
public sealed class TensorBoardLog : ITrainingObserver
{
    private const uint Castagnoli = 0x82F63B78, Mask = 0xA282EAD8;
    private const int Double = 1, Varint = 0, Bytes = 2, Single = 5;
    private static readonly uint[] s_table = Table();

    private readonly FileStream _stream;

    /// <summary>Opens a file of its own in a folder.</summary>
    /// <param name="folder">The folder that TensorBoard is pointed at (<c>--logdir</c>).</param>
    public TensorBoardLog(string folder)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        AtomicFile.MakeFolder(folder);
        var now = DateTimeOffset.UtcNow;
        Path = System.IO.Path.Combine(folder, FormattableString.Invariant($"events.out.tfevents.{now.ToUnixTimeSeconds()}.{Environment.MachineName}.{Environment.ProcessId}.{now.Ticks % 10_000}"));
        _stream = new FileStream(Path, FileMode.CreateNew, FileAccess.Write, FileShare.Read);
        Write(Event(now, 0, version: true, []));
    }

    /// <summary>The file.</summary>
    public string Path { get; }

    /// <inheritdoc/>
    public void OnStep(StepRecord step) => Write(step.Step,
    [
        ("train/loss", step.Loss), ("train/learning_rate", step.LearningRate), ("train/grad_norm", step.GradientNorm), ("train/epoch", step.Epoch), ("train/num_tokens", step.Tokens),
        .. step.MemoryBytes is { } memory ? [("train/memory_bytes", (double)memory)] : (ReadOnlySpan<(string, double)>)[],
        .. (step.Metrics ?? new Dictionary<string, double>()).Select(static metric => ("train/" + metric.Key, metric.Value)),
    ]);

    /// <inheritdoc/>
    public void OnEvaluation(EvaluationRecord evaluation) => Write(evaluation.Step,
        [("eval/loss", evaluation.Loss), .. (evaluation.Metrics ?? new Dictionary<string, double>()).Select(static metric => ("eval/" + metric.Key, metric.Value))]);

    /// <inheritdoc/>
    public void Dispose() => _stream.Dispose();

    private void Write(int step, IReadOnlyList<(string Tag, double Value)> figures)
    {
        Write(Event(DateTimeOffset.UtcNow, step, version: false, figures));
        _stream.Flush();
    }

    private void Write(byte[] record)
    {
        Span<byte> head = stackalloc byte[12], tail = stackalloc byte[4];
        BinaryPrimitives.WriteInt64LittleEndian(head, record.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(head[8..], Masked(head[..8]));
        BinaryPrimitives.WriteUInt32LittleEndian(tail, Masked(record));
        _stream.Write(head);
        _stream.Write(record);
        _stream.Write(tail);
    }

    private static byte[] Event(DateTimeOffset time, long step, bool version, IReadOnlyList<(string Tag, double Value)> figures)
    {
        using var message = new MemoryStream();
        using var writer = new BinaryWriter(message);
        Key(writer, 1, Double);
        writer.Write(time.ToUnixTimeMilliseconds() / 1000.0);
        Key(writer, 2, Varint);
        writer.Write7BitEncodedInt64(step);
        if (version)
        {
            Message(writer, 3, "brain.Event:2"u8);
        }
        else
        {
            Message(writer, 5, Summary(figures));
        }

        return message.ToArray();
    }

    private static byte[] Summary(IReadOnlyList<(string Tag, double Value)> figures)
    {
        using var message = new MemoryStream();
        using var writer = new BinaryWriter(message);
        foreach (var (tag, figure) in figures)
        {
            using var value = new MemoryStream();
            using var inner = new BinaryWriter(value);
            Message(inner, 1, Encoding.UTF8.GetBytes(tag));
            Key(inner, 2, Single);
            inner.Write((float)figure);
            Message(writer, 1, value.ToArray());
        }

        return message.ToArray();
    }

    private static void Key(BinaryWriter writer, int field, int type) => writer.Write((byte)((field << 3) | type));

    private static void Message(BinaryWriter writer, int field, ReadOnlySpan<byte> bytes)
    {
        Key(writer, field, Bytes);
        writer.Write7BitEncodedInt(bytes.Length);
        writer.Write(bytes);
    }

    private static uint Masked(ReadOnlySpan<byte> bytes)
    {
        var sum = uint.MaxValue;
        foreach (var value in bytes)
        {
            sum = s_table[(byte)(sum ^ value)] ^ (sum >> 8);
        }

        sum = ~sum;
        return ((sum >> 15) | (sum << 17)) + Mask;
    }

    private static uint[] Table()
    {
        var table = new uint[256];
        for (var i = 0u; i < table.Length; i++)
        {
            table[i] = i;
            for (var bit = 0; bit < 8; bit++)
            {
                table[i] = (table[i] >> 1) ^ ((table[i] & 1) * Castagnoli);
            }
        }

        return table;
    }
}
