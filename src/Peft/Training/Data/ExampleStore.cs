using Peft.Files;

namespace Peft.Training.Data;

/// <summary>The token cache of a data set that doesn't fit into memory: its examples on the disk, each read when it is asked for.</summary>
/// <param name="rows">The rows that examples are made of, by their number.</param>
internal sealed class ExampleStore(IReadOnlyList<TrainingRow> rows)
{
    private readonly RecordFile _file = RowStore.Guard(static () => new RecordFile());

    // Few different sentences are said of many examples.
    private readonly List<string> _rules = [];

    /// <summary>Adds an example.</summary>
    /// <param name="row">The number of its row.</param>
    /// <param name="example">The example.</param>
    public void Add(int row, TrainingExample example)
    {
        if (!_rules.Contains(example.Rule))
        {
            _rules.Add(example.Rule);
        }

        RowStore.Guard(() =>
        {
            _file.Add(writer => Write(writer, row, example));
            return true;
        });
    }

    /// <summary>All that were added; no more may be.</summary>
    public IReadOnlyList<TrainingExample> Examples()
    {
        RowStore.Guard(_file.Written);
        return new IndexedList<TrainingExample>(_file.Count, index => _file.Read(index, Read));
    }

    private void Write(BinaryWriter writer, int row, TrainingExample example)
    {
        writer.Write(row);
        writer.Write(_rules.IndexOf(example.Rule));
        writer.Write((byte)example.Kind);
        writer.Write((byte)example.Remarks);
        writer.Write(example.UncutLength);
        Write(writer, example.InputIds);
        Write(writer, example.Labels);
        Write(writer, example.Rejected?.InputIds);
        Write(writer, example.Rejected?.Labels);
        writer.Write7BitEncodedInt(example.Negatives.Count);
        foreach (var negative in example.Negatives)
        {
            Write(writer, negative);
        }

        Write(writer, example.TokenTypes);
        Write(writer, example.TaskId is { } task ? [task] : null);
        Write(writer, example.IsDesirable is { } good ? [good ? 1 : 0] : null);
        writer.Write(example.Margin ?? double.NaN);
        writer.Write(example.Target is not null);
        if (example.Target is { } target)
        {
            writer.Write(target.IsClass);
            writer.Write(target.Text);
            writer.Write7BitEncodedInt(target.Values.Count);
            foreach (var value in target.Values)
            {
                writer.Write(value);
            }
        }
    }

    private TrainingExample Read(BinaryReader reader)
    {
        var (row, rule, kind, remarks, uncut) = (rows[reader.ReadInt32()], _rules[reader.ReadInt32()], (ExampleKind)reader.ReadByte(), (ExampleRemarks)reader.ReadByte(), reader.ReadInt32());
        int[] ids = Ints(reader)!, labels = Ints(reader)!;
        int[]? rejected = Ints(reader), rejectedLabels = Ints(reader);
        return new TrainingExample(row, ids, labels, rule)
        {
            Kind = kind,
            Remarks = remarks,
            UncutLength = uncut,
            Rejected = rejected is null ? null : new TokenRow(rejected, rejectedLabels!),
            Negatives = [.. Enumerable.Range(0, reader.Read7BitEncodedInt()).Select(_ => Ints(reader)!)],
            TokenTypes = Ints(reader),
            TaskId = Ints(reader)?[0],
            IsDesirable = Ints(reader) is { } good ? good[0] == 1 : null,
            Margin = reader.ReadDouble() is var margin && double.IsNaN(margin) ? null : margin,
            Target = reader.ReadBoolean() ? Target(reader) : null,
        };
    }

    private static RowTarget Target(BinaryReader reader)
    {
        var (isClass, text) = (reader.ReadBoolean(), reader.ReadString());
        var values = new double[reader.Read7BitEncodedInt()];
        for (var i = 0; i < values.Length; i++)
        {
            values[i] = reader.ReadDouble();
        }

        return new RowTarget(values, isClass, text);
    }

    private static void Write(BinaryWriter writer, int[]? values)
    {
        writer.Write(values?.Length ?? -1);
        writer.Write(System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()));
    }

    private static int[]? Ints(BinaryReader reader)
    {
        if (reader.ReadInt32() is var count && count < 0)
        {
            return null;
        }

        var values = new int[count];
        reader.BaseStream.ReadExactly(System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()));
        return values;
    }
}
