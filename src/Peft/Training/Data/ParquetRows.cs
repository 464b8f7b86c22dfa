using System.Collections;
using System.Globalization;
using Parquet;
using Parquet.Serialization;
using Peft.Files;

namespace Peft.Training.Data;

/// <summary>Reads the rows of a Parquet file, a group of rows at a time.</summary>
internal static class ParquetRows
{
    /// <summary>Reads all rows.</summary>
    /// <param name="path">The file.</param>
    /// <param name="watch">Stops between rows, and hears how far the reading is.</param>
    /// <exception cref="PeftException"><c>FileNotFound</c>, <c>FileUnreadable</c> or <c>DatasetFileDamaged</c>.</exception>
    public static List<TrainingRow> Read(string path, ReadingWatch watch) => Guarded(path, stream => ReadAsync(stream, path, watch));

    /// <summary>The columns of a file.</summary>
    /// <exception cref="PeftException">As <see cref="Read"/>.</exception>
    public static IReadOnlyList<string> Columns(string path) => Guarded(path, static stream => ColumnsAsync(stream));

    private static T Guarded<T>(string path, Func<Stream, Task<T>> read)
    {
        try
        {
            using var stream = File.OpenRead(path);
            return read(stream).GetAwaiter().GetResult();
        }
        catch (Exception error) when (error is FileNotFoundException or DirectoryNotFoundException or UnauthorizedAccessException)
        {
            throw FileErrors.Unreadable(path, error);
        }
        catch (Exception error) when (error is not (PeftException or OperationCanceledException or OutOfMemoryException))
        {
            // Whatever the reader stumbles over in a foreign file.
            throw new PeftException("DatasetFileDamaged", $"'{path}' can't be read as Parquet: {error.Message}", error) { Target = path };
        }
    }

    private static async Task<IReadOnlyList<string>> ColumnsAsync(Stream stream)
    {
        var reader = await ParquetReader.CreateAsync(stream, leaveStreamOpen: true).ConfigureAwait(false);
        await using (reader.ConfigureAwait(false))
        {
            return [.. reader.Schema.Fields.Select(static field => field.Name)];
        }
    }

    private static async Task<List<TrainingRow>> ReadAsync(Stream stream, string path, ReadingWatch watch)
    {
        var rows = new List<TrainingRow>();
        int groups;
        string[] columns;
        var reader = await ParquetReader.CreateAsync(stream, leaveStreamOpen: true).ConfigureAwait(false);
        await using (reader.ConfigureAwait(false))
        {
            groups = reader.RowGroupCount;
            columns = [.. reader.Schema.Fields.Select(static field => field.Name)];
        }

        for (var group = 0; group < groups; group++)
        {
            stream.Position = 0;
            var read = await ParquetSerializer.DeserializeUntypedAsync(stream, null, group).ConfigureAwait(false);
            foreach (var row in read.Data)
            {
                watch.Row(stream);
                rows.Add(new TrainingRow(columns.ToDictionary(static name => name, name => Plain(row.GetValueOrDefault(name)), StringComparer.Ordinal), path, rows.Count + 1));
            }
        }

        return rows;
    }

    /// <summary>A value as JSON would have it.</summary>
    private static object? Plain(object? value) => value switch
    {
        null or string or bool or long or double => value,
        ReadOnlyMemory<char> text => text.ToString(),
        ReadOnlyMemory<byte> bytes => Convert.ToBase64String(bytes.Span),
        byte[] bytes => Convert.ToBase64String(bytes),
        sbyte or byte or short or ushort or int or uint => Convert.ToInt64(value, CultureInfo.InvariantCulture),
        ulong whole => whole <= long.MaxValue ? (long)whole : (System.Numerics.BigInteger)whole,
        float or decimal => Convert.ToDouble(value, CultureInfo.InvariantCulture),
        IDictionary table => table.Keys.Cast<object>().ToDictionary(static key => key.ToString()!, key => Plain(table[key]), StringComparer.Ordinal),
        IEnumerable list => list.Cast<object?>().Select(Plain).ToArray(),
        IFormattable other => other.ToString(value is DateTime ? "O" : null, CultureInfo.InvariantCulture),
        _ => value.ToString(),
    };
}
