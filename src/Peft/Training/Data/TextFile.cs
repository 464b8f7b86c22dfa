using System.Text;
using Peft.Files;

namespace Peft.Training.Data;

/// <summary>Reads a text file whole, in the encoding that its bytes tell, as data sets are read.</summary>
public static class TextFile
{
    /// <summary>Reads a file.</summary>
    /// <param name="path">The file.</param>
    /// <param name="encoding">Name of its encoding; null to find it out.</param>
    /// <returns>Its text, without a byte order mark.</returns>
    /// <exception cref="PeftException"><c>FileNotFound</c>, <c>FileUnreadable</c>, <c>DatasetEncodingUnknown</c> or <c>DatasetEncodingInvalid</c>.</exception>
    public static string Read(string path, string? encoding = null) => Read(path, encoding, static reader => reader.ReadToEnd());

    /// <summary>Reads a file with a reader of its encoding.</summary>
    internal static T Read<T>(string path, string? encoding, Func<StreamReader, T> read) => Guard(path, () =>
    {
        using var file = CompressedFile.Open(path);
        using var reader = Reader(file, path, encoding);
        return read(reader);
    });

    /// <summary>A reader of a file, in the encoding that its bytes tell.</summary>
    internal static StreamReader Reader(CompressedFile file, string path, string? encoding) =>
        new(file.Content, TextEncoding.Of(path, encoding), detectEncodingFromByteOrderMarks: false);

    /// <summary>Turns errors of reading into those that say which file it is.</summary>
    internal static T Guard<T>(string path, Func<T> read)
    {
        try
        {
            return read();
        }
        catch (DecoderFallbackException error)
        {
            throw new PeftException("DatasetEncodingInvalid", $"'{path}' has bytes that are not valid in the encoding it is read in: {error.Message}", error)
            {
                Target = path,
                RecommendedAction = "Name the encoding in which the file was saved.",
            };
        }
        catch (Exception error) when (CompressedFile.IsDamage(error))
        {
            throw new PeftException("DatasetFileDamaged", $"'{path}' can't be unpacked: {error.Message}", error) { Target = path };
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw FileErrors.Unreadable(path, error);
        }
    }
}
