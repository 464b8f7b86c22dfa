using System.Globalization;
using System.Text;
using Peft.Tokenization.PreTokenizers;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.Decoders;

/// <summary>Turns token texts back into pieces of text, which are then joined.</summary>
internal abstract class Decoder
{
    /// <summary>Decodes a chain of tokens.</summary>
    public abstract List<string> Decode(List<string> tokens);
}

/// <summary>Several decoders after each other.</summary>
internal sealed class SequenceDecoder(IReadOnlyList<Decoder> steps) : Decoder
{
    /// <inheritdoc/>
    public override List<string> Decode(List<string> tokens)
    {
        var limit = TextGrowth.Limit(Length(tokens));
        return steps.Aggregate(tokens, (current, step) =>
        {
            var decoded = step.Decode(current);
            TextGrowth.Check(Length(decoded), limit);
            return decoded;
        });
    }

    private static long Length(List<string> tokens) => tokens.Sum(static token => (long)token.Length);
}

/// <summary>Reads the byte-level alphabet as bytes; a token with another character stands for its own UTF-8.</summary>
internal sealed class ByteLevelDecoder : Decoder
{
    /// <inheritdoc/>
    public override List<string> Decode(List<string> tokens)
    {
        var bytes = new List<byte>(tokens.Count * 4);
        foreach (var token in tokens)
        {
            var start = bytes.Count;
            foreach (var character in token)
            {
                var value = ByteLevelAlphabet.Byte(character);
                if (value < 0)
                {
                    bytes.RemoveRange(start, bytes.Count - start);
                    bytes.AddRange(System.Text.Encoding.UTF8.GetBytes(token));
                    break;
                }

                bytes.Add((byte)value);
            }
        }

        return [System.Text.Encoding.UTF8.GetString(System.Runtime.InteropServices.CollectionsMarshal.AsSpan(bytes))];
    }
}

/// <summary>Puts spaces between words and joins the pieces that carry a prefix.</summary>
internal sealed class WordPieceDecoder(string prefix, bool cleanUp) : Decoder
{
    /// <inheritdoc/>
    public override List<string> Decode(List<string> tokens)
    {
        var result = new List<string>(tokens.Count);
        for (var i = 0; i < tokens.Count; i++)
        {
            var token = tokens[i];
            if (i > 0)
            {
                token = token.StartsWith(prefix, StringComparison.Ordinal) ? token[prefix.Length..] : " " + token;
            }

            result.Add(cleanUp ? CleanUp(token) : token);
        }

        return result;
    }

    /// <summary>Takes the spaces before punctuation and English contractions out.</summary>
    public static string CleanUp(string text) => text
        .Replace(" .", ".", StringComparison.Ordinal).Replace(" ?", "?", StringComparison.Ordinal).Replace(" !", "!", StringComparison.Ordinal)
        .Replace(" ,", ",", StringComparison.Ordinal).Replace(" ' ", "'", StringComparison.Ordinal).Replace(" n't", "n't", StringComparison.Ordinal)
        .Replace(" 'm", "'m", StringComparison.Ordinal).Replace(" do not", " don't", StringComparison.Ordinal).Replace(" 's", "'s", StringComparison.Ordinal)
        .Replace(" 've", "'ve", StringComparison.Ordinal).Replace(" 're", "'re", StringComparison.Ordinal);
}

/// <summary>Turns the suffix that ends words into spaces.</summary>
internal sealed class BytePairDecoder(string suffix) : Decoder
{
    /// <inheritdoc/>
    public override List<string> Decode(List<string> tokens)
    {
        var last = tokens.Count - 1;
        return tokens.Select((token, i) => Literal.Replace(token, suffix, i == last ? "" : " ")).ToList();
    }
}

/// <summary>Joins repeated tokens, drops the blank, and turns the delimiter into spaces (connectionist temporal classification).</summary>
internal sealed class CtcDecoder(string blank, string delimiter, bool cleanUp) : Decoder
{
    /// <inheritdoc/>
    public override List<string> Decode(List<string> tokens)
    {
        var result = new List<string>(tokens.Count);
        string? previous = null;
        foreach (var token in tokens)
        {
            if (token == previous)
            {
                continue;
            }

            previous = token;
            var text = Literal.Replace(token, blank, "");
            if (cleanUp)
            {
                text = WordPieceDecoder.CleanUp(text);
                text = Literal.Replace(text, delimiter, " ");
            }

            if (text.Length > 0)
            {
                result.Add(text);
            }
        }

        return result;
    }
}

/// <summary>Replacing as Rust's regex crate does it.</summary>
internal static class Literal
{
    /// <summary>Replaces every occurrence; the empty string occurs before each character and at the end.</summary>
    public static string Replace(string text, string old, string with)
    {
        if (old.Length > 0 || with.Length == 0)
        {
            return old.Length > 0 ? text.Replace(old, with, StringComparison.Ordinal) : text;
        }

        var builder = new StringBuilder(with);
        foreach (var rune in text.EnumerateRunes())
        {
            builder.Append(rune.ToString()).Append(with);
        }

        return builder.ToString();
    }
}

/// <summary>Joins runs of byte pieces such as <c>&lt;0x0A&gt;</c>; a run that is no UTF-8 gives one U+FFFD a byte.</summary>
internal sealed class ByteFallbackDecoder : Decoder
{
    private static readonly UTF8Encoding s_strict = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    /// <inheritdoc/>
    public override List<string> Decode(List<string> tokens)
    {
        var result = new List<string>(tokens.Count);
        var run = new List<byte>();
        foreach (var token in tokens)
        {
            if (ByteOf(token) is { } value)
            {
                run.Add(value);
                continue;
            }

            Flush(run, result);
            result.Add(token);
        }

        Flush(run, result);
        return result;
    }

    private static byte? ByteOf(string token)
    {
        if (token.Length != 6 || !token.StartsWith("<0x", StringComparison.Ordinal) || token[5] != '>')
        {
            return null;
        }

        var digits = token.AsSpan(3, 2);
        digits = digits[0] == '+' ? digits[1..] : digits;
        return byte.TryParse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var value) ? value : null;
    }

    private static void Flush(List<byte> run, List<string> result)
    {
        if (run.Count == 0)
        {
            return;
        }

        var bytes = run.ToArray();
        run.Clear();
        if (System.Text.Unicode.Utf8.IsValid(bytes))
        {
            result.Add(s_strict.GetString(bytes));
        }
        else
        {
            result.AddRange(Enumerable.Repeat("\uFFFD", bytes.Length));
        }
    }
}

/// <summary>Joins all tokens into one.</summary>
internal sealed class FuseDecoder : Decoder
{
    /// <inheritdoc/>
    public override List<string> Decode(List<string> tokens) => [string.Concat(tokens)];
}

/// <summary>Strips up to so many copies of a character off both ends of each token.</summary>
internal sealed class StripDecoder(int content, int start, int stop) : Decoder
{
    /// <inheritdoc/>
    public override List<string> Decode(List<string> tokens) => tokens.ConvertAll(Strip);

    private string Strip(string token)
    {
        var (from, to) = (0, token.Length);
        for (var i = 0; i < start && from < token.Length && CodePoints.At(token, from, out var length) == content; i++)
        {
            from += length;
        }

        for (var i = 0; i < stop && to > from && CodePoints.Before(token, to, out var length) == content; i++)
        {
            to -= length;
        }

        return token[from..to];
    }
}

/// <summary>Replaces a string or the matches of a pattern in each token.</summary>
internal sealed class ReplaceDecoder(Matcher matcher, string content) : Decoder
{
    /// <inheritdoc/>
    public override List<string> Decode(List<string> tokens)
    {
        var limit = TextGrowth.Limit(tokens.Sum(static token => (long)token.Length));
        var length = 0L;
        return tokens.ConvertAll(token => Replaced(token, ref length, limit));
    }

    private string Replaced(string token, ref long total, long limit)
    {
        var state = MatchState.Start;
        StringBuilder? builder = null;
        var last = 0;
        while (matcher.Next(token, ref state, out var start, out var end))
        {
            builder ??= new StringBuilder();
            builder.Append(token, last, start - last).Append(content);
            last = end;
            TextGrowth.Check(total + builder.Length, limit);
        }

        var text = builder is null ? token : builder.Append(token, last, token.Length - last).ToString();
        total += text.Length;
        return text;
    }
}

/// <summary>Turns ▁ into spaces; the first token loses its own, unless none was prepended.</summary>
internal sealed class MetaspaceDecoder(char replacement, bool prepended) : Decoder
{
    /// <inheritdoc/>
    public override List<string> Decode(List<string> tokens) => tokens.Select((token, i) => i == 0 && prepended
        ? token.Replace(replacement.ToString(), "", StringComparison.Ordinal)
        : token.Replace(replacement, ' ')).ToList();
}
