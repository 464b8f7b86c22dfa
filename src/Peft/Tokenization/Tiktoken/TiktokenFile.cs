using System.Buffers.Text;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.Tiktoken;

/// <summary>Reads the ranks of tiktoken's byte-pair encodings: a token in Base64 and its rank on each line, where the rank is its id too.</summary>
internal static class TiktokenFile
{
    /// <summary>Begins the first line of Microsoft's data packages, which leave the ranks out.</summary>
    private static ReadOnlySpan<byte> CapacityLine => "Capacity:"u8;

    /// <summary>Token texts in the byte-level alphabet, with their ids.</summary>
    /// <param name="content">The file.</param>
    /// <param name="path">Its name, for messages.</param>
    /// <exception cref="PeftException"><c>TokenizerFileInvalid</c>.</exception>
    public static Dictionary<string, int> Read(ReadOnlySpan<byte> content, string path)
    {
        var ranks = new Dictionary<string, int>(StringComparer.Ordinal);
        var (number, isCounted) = (0, false);
        foreach (var range in content.Split((byte)'\n'))
        {
            number++;
            var line = content[range].TrimEnd((byte)'\r').Trim((byte)' ');
            if (line.IsEmpty || (number == 1 && (isCounted = line.StartsWith(CapacityLine))))
            {
                continue;
            }

            var space = line.IndexOf((byte)' ');
            var rank = ranks.Count;
            var bytes = space > 0 || (isCounted && space < 0) ? Decode(space > 0 ? line[..space] : line) : null;
            if (bytes is null || (space > 0 && !(Utf8Parser.TryParse(line[(space + 1)..], out rank, out var read) && read == line.Length - space - 1)))
            {
                throw new PeftException("TokenizerFileInvalid", $"{path}: line {number} should be a token in Base64, a space and the token's rank.") { Target = path };
            }

            if (!ranks.TryAdd(Spelled(bytes), rank))
            {
                throw new PeftException("TokenizerFileInvalid", $"{path}: line {number} gives a token that has a rank already.") { Target = path };
            }
        }

        return ranks.Count > 0 ? ranks : throw new PeftException("TokenizerFileInvalid", $"{path} holds no token.") { Target = path };
    }

    private static byte[]? Decode(ReadOnlySpan<byte> text)
    {
        var bytes = new byte[Base64.GetMaxDecodedFromUtf8Length(text.Length)];
        var isWhole = Base64.DecodeFromUtf8(text, bytes, out var read, out var written) == System.Buffers.OperationStatus.Done && read == text.Length && written > 0;
        return isWhole ? bytes[..written] : null;
    }

    private static string Spelled(byte[] bytes) => string.Create(bytes.Length, bytes, static (text, bytes) =>
    {
        for (var i = 0; i < bytes.Length; i++)
        {
            text[i] = ByteLevelAlphabet.Character(bytes[i]);
        }
    });
}
