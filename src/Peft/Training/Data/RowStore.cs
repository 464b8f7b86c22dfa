using System.Globalization;
using System.Numerics;
using Peft.Files;

namespace Peft.Training.Data;

/// <summary>Rows on the disk, for data sets that don't fit into memory. Each is read when it is asked for.</summary>
internal static class RowStore
{
    private enum Tag : byte
    {
        Null,
        Text,
        True,
        False,
        Whole,
        Real,
        Large,
        List,
        Table,
    }

    /// <summary>Writes rows to the disk.</summary>
    /// <param name="rows">The rows, which are gone through once.</param>
    /// <returns>The rows, and the columns that they have.</returns>
    /// <exception cref="PeftException"><c>TokenCacheFailed</c>: the disk is full, or its folder can't be written.</exception>
    public static (IReadOnlyList<TrainingRow> Rows, IReadOnlyList<string> Columns) Store(IEnumerable<TrainingRow> rows)
    {
        var origins = new List<string>();
        var columns = new List<string>();
        var file = Guard(static () => new RecordFile());
        foreach (var row in rows)
        {
            columns.AddRange(row.Values.Keys.Where(name => !columns.Contains(name)));
            if (origins.Count == 0 || origins[^1] != row.Origin)
            {
                origins.Add(row.Origin);
            }

            Guard(() =>
            {
                file.Add(writer =>
                {
                    writer.Write(origins.Count - 1);
                    writer.Write(row.Line);
                    Write(writer, row.Values);
                });
                return true;
            });
        }

        Guard(file.Written);
        return (new IndexedList<TrainingRow>(file.Count, index => file.Read(index, reader => Row(reader, origins))), columns);
    }

    /// <summary>Turns errors of the disk into the one that says what to do.</summary>
    public static T Guard<T>(Func<T> act)
    {
        try
        {
            return act();
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new PeftException("TokenCacheFailed", $"What doesn't fit into memory could not be kept in '{RecordFile.Folder}': {error.Message}", error) { Target = RecordFile.Folder };
        }
    }

    private static TrainingRow Row(BinaryReader reader, List<string> origins)
    {
        var (origin, line) = (origins[reader.ReadInt32()], reader.ReadInt32());
        return new TrainingRow((IReadOnlyDictionary<string, object?>)Read(reader)!, origin, line);
    }

    private static void Write(BinaryWriter writer, object? value)
    {
        switch (value)
        {
            case null:
                writer.Write((byte)Tag.Null);
                break;
            case string text:
                writer.Write((byte)Tag.Text);
                writer.Write(text);
                break;
            case bool truth:
                writer.Write((byte)(truth ? Tag.True : Tag.False));
                break;
            case double real:
                writer.Write((byte)Tag.Real);
                writer.Write(real);
                break;
            case BigInteger large:
                writer.Write((byte)Tag.Large);
                writer.Write(large.ToString(CultureInfo.InvariantCulture));
                break;
            case IReadOnlyDictionary<string, object?> table:
                writer.Write((byte)Tag.Table);
                writer.Write7BitEncodedInt(table.Count);
                foreach (var (key, item) in table)
                {
                    writer.Write(key);
                    Write(writer, item);
                }

                break;
            case IReadOnlyList<object?> list:
                writer.Write((byte)Tag.List);
                writer.Write7BitEncodedInt(list.Count);
                foreach (var item in list)
                {
                    Write(writer, item);
                }

                break;
            default:
                writer.Write((byte)Tag.Whole);
                writer.Write(Convert.ToInt64(value, CultureInfo.InvariantCulture));
                break;
        }
    }

    private static object? Read(BinaryReader reader) => (Tag)reader.ReadByte() switch
    {
        Tag.Text => reader.ReadString(),
        Tag.True => true,
        Tag.False => false,
        Tag.Whole => reader.ReadInt64(),
        Tag.Real => reader.ReadDouble(),
        Tag.Large => BigInteger.Parse(reader.ReadString(), CultureInfo.InvariantCulture),
        Tag.List => List(reader),
        Tag.Table => Table(reader),
        _ => null,
    };

    private static object?[] List(BinaryReader reader)
    {
        var list = new object?[reader.Read7BitEncodedInt()];
        for (var i = 0; i < list.Length; i++)
        {
            list[i] = Read(reader);
        }

        return list;
    }

    private static Dictionary<string, object?> Table(BinaryReader reader)
    {
        var count = reader.Read7BitEncodedInt();
        var table = new Dictionary<string, object?>(count);
        for (var i = 0; i < count; i++)
        {
            table.Add(reader.ReadString(), Read(reader));
        }

        return table;
    }
}
