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
    public static IEnumerable<TrainingRow> Read(string path, ReadingWatch watch)
    {
        var (groups, columns) = Guarded(path, static stream => ShapeAsync(stream));
        var line = 0;
        for (var group = 0; group < groups; group++)
        {
            var number = group;
            foreach (var values in Guarded(path, stream => GroupAsync(stream, number, watch)))
            {
                yield return new TrainingRow(columns.ToDictionary(static name => name, name => Plain(values.GetValueOrDefault(name)), StringComparer.Ordinal), path, ++line);
            }
        }
    }

    /// <summary>The columns of a file.</summary>
    /// <exception cref="PeftException">As <see cref="Read"/>.</exception>
    public static IReadOnlyList<string> Columns(string path) => Guarded(path, static stream => ShapeAsync(stream)).Columns;

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

    private static async Task<(int Groups, string[] Columns)> ShapeAsync(Stream stream)
    {
        var reader = await ParquetReader.CreateAsync(stream, leaveStreamOpen: true).ConfigureAwait(false);
        await using (reader.ConfigureAwait(false))
        {
            return (reader.RowGroupCount, [.. reader.Schema.Fields.Select(static field => field.Name)]);
        }
    }

    private static async Task<List<Dictionary<string, object>>> GroupAsync(Stream stream, int group, ReadingWatch watch)
    {
        var read = await ParquetSerializer.DeserializeUntypedAsync(stream, null, group).ConfigureAwait(false);
        foreach (var _ in read.Data)
        {
            watch.Row(stream);
        }

        return [.. read.Data];
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
