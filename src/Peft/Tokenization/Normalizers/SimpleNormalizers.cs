using System.Globalization;
using System.Text;
using Peft.Tokenization.PreTokenizers;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.Normalizers;

/// <summary>NFC, NFD, NFKC or NFKD.</summary>
internal sealed class FormNormalizer(bool compatible, bool compose) : Normalizer
{
    /// <inheritdoc/>
    public override void Normalize(NormalizedText text) => UnicodeNormalization.Apply(text, compatible, compose);
}

/// <summary>What SentencePiece's training data went through: control characters go, other blanks become spaces.</summary>
internal sealed class NmtNormalizer : Normalizer
{
    /// <inheritdoc/>
    public override void Normalize(NormalizedText text)
    {
        text.Filter(codePoint => codePoint is not ((>= 1 and <= 8) or 0xB or (>= 0xE and <= 0x1F) or 0x7F or 0x8F or 0x9F));
        CharacterNormalizer.Map(text, unit => unit is '\t' or '\n' or '\f' or '\r' or '\u1680' or (>= '\u200B' and <= '\u200F')
            or '\u2028' or '\u2029' or '\u2581' or '\uFEFF' or '\uFFFD' ? ' ' : unit);
    }
}

/// <summary>Lower case, code point by code point.</summary>
internal sealed class LowercaseNormalizer : Normalizer
{
    /// <inheritdoc/>
    public override void Normalize(NormalizedText text) => CharacterNormalizer.Lower(text);
}

/// <summary>White space off the ends.</summary>
internal sealed class StripNormalizer(bool left, bool right) : Normalizer
{
    /// <inheritdoc/>
    public override void Normalize(NormalizedText text)
    {
        var (start, end) = (0, text.Text.Length);
        while (left && start < end && char.IsWhiteSpace(text.Text[start]))
        {
            start++;
        }

        while (right && end > start && char.IsWhiteSpace(text.Text[end - 1]))
        {
            end--;
        }

        text.Cut(start, end);
    }
}

/// <summary>Every mark goes; nothing is decomposed first.</summary>
internal sealed class StripAccentsNormalizer : Normalizer
{
    /// <inheritdoc/>
    public override void Normalize(NormalizedText text)
    {
        if (!Ascii.IsValid(text.Text))
        {
            text.Filter(codePoint => !RustUnicodeTables.IsMark(codePoint));
        }
    }
}

/// <summary>Replaces a string or the matches of a pattern.</summary>
internal sealed class ReplaceNormalizer(Matcher matcher, string content, char? character) : Normalizer
{
    /// <inheritdoc/>
    public override void Normalize(NormalizedText text)
    {
        if (character is { } only)
        {
            if (text.Text.Contains(only, StringComparison.Ordinal))
            {
                text.SetSameLength(text.Text.Replace(only, content[0]));
            }

            return;
        }

        if (text.Text.Length == 0)
        {
            return;
        }

        var state = MatchState.Start;
        TextBuilder? builder = null;
        var last = 0;
        while (matcher.Next(text.Text, ref state, out var start, out var end))
        {
            builder ??= text.Builder(text.Text.Length);
            text.Append(builder, last, start);

            // What is put in has the place of the last character that was taken out.
            var (from, to) = text.Before(end);
            foreach (var unit in content)
            {
                builder.Add(unit, from, to);
            }

            last = end;
        }

        if (builder is not null)
        {
            text.Append(builder, last, text.Text.Length);
            text.Set(builder);
        }
    }
}

/// <summary>Puts a string in front of every text that isn't empty.</summary>
internal sealed class PrependNormalizer(string prefix) : Normalizer
{
    /// <inheritdoc/>
    public override void Normalize(NormalizedText text) => text.Prepend(prefix);
}

/// <summary>The UTF-8 bytes in the byte-level alphabet.</summary>
internal sealed class ByteLevelNormalizer : Normalizer
{
    /// <inheritdoc/>
    public override void Normalize(NormalizedText text)
    {
        var builder = text.Builder(text.Text.Length + (text.Text.Length / 2));
        ByteLevelAlphabet.Spell(text.Text, 0, text.Map, builder);
        text.Set(builder);
    }
}

/// <summary>BERT's four steps.</summary>
internal sealed class BertNormalizer(bool cleanText, bool splitChinese, bool stripAccents, bool lower) : Normalizer
{
    /// <inheritdoc/>
    public override void Normalize(NormalizedText text)
    {
        if (cleanText)
        {
            text.Filter(codePoint => codePoint is not (0 or 0xFFFD) && !IsControl(codePoint));
            CharacterNormalizer.Map(text, unit => char.IsWhiteSpace(unit) ? ' ' : unit);
        }

        var ascii = Ascii.IsValid(text.Text);
        if (splitChinese && !ascii)
        {
            SplitChinese(text);
        }

        if (stripAccents && !ascii)
        {
            UnicodeNormalization.Apply(text, compatible: false, compose: false);
            text.Filter(codePoint => !RustUnicodeTables.IsNonspacingMark(codePoint));
        }

        if (lower)
        {
            CharacterNormalizer.Lower(text);
        }
    }

    private static void SplitChinese(NormalizedText text)
    {
        var source = text.Text;
        TextBuilder? builder = null;
        var last = 0;
        for (var i = 0; i < source.Length;)
        {
            var codePoint = CodePoints.At(source, i, out var length);
            if (IsChinese(codePoint))
            {
                builder ??= text.Builder(source.Length + (source.Length / 2));
                text.Append(builder, last, i);
                var (start, end) = (text.Map.Start(i), text.Map.End(i + length - 1));
                builder.Add(' ', start, end);
                builder.AddCodePoint(codePoint, start, end);
                builder.Add(' ', start, end);
                last = i + length;
            }

            i += length;
        }

        if (builder is not null)
        {
            text.Append(builder, last, source.Length);
            text.Set(builder);
        }
    }

    private static bool IsControl(int codePoint) => codePoint is not ('\t' or '\n' or '\r') && CharacterClass.Category(codePoint)
        is UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.PrivateUse or UnicodeCategory.Surrogate
        && !RustUnicodeTables.KeepsFormat(codePoint);

    /// <summary>The ideographs that BERT puts spaces around; kana and Hangul aren't among them.</summary>
    private static bool IsChinese(int codePoint) => codePoint is (>= 0x4E00 and <= 0x9FFF) or (>= 0x3400 and <= 0x4DBF)
        or (>= 0x20000 and <= 0x2A6DF) or (>= 0x2A700 and <= 0x2B73F) or (>= 0x2B740 and <= 0x2B81F) or (>= 0x2B920 and <= 0x2CEAF)
        or (>= 0xF900 and <= 0xFAFF) or (>= 0x2F800 and <= 0x2FA1F);
}

/// <summary>What works character by character.</summary>
internal static class CharacterNormalizer
{
    /// <summary>Replaces UTF-16 units one for one.</summary>
    public static void Map(NormalizedText text, Func<char, char> map)
    {
        var source = text.Text;
        for (var i = 0; i < source.Length; i++)
        {
            if (map(source[i]) == source[i])
            {
                continue;
            }

            text.SetSameLength(string.Create(source.Length, (source, map), static (span, state) =>
            {
                for (var at = 0; at < span.Length; at++)
                {
                    span[at] = state.map(state.source[at]);
                }
            }));
            return;
        }
    }

    /// <summary>Lower case, code point by code point, so that a final sigma isn't one.</summary>
    public static void Lower(NormalizedText text)
    {
        var source = text.Text;
        if (Ascii.IsValid(source))
        {
            if (source.AsSpan().IndexOfAnyInRange('A', 'Z') >= 0)
            {
                text.SetSameLength(source.ToLowerInvariant());
            }

            return;
        }

        var lower = new StringBuilder(source.Length);
        var sameLength = true;
        for (var i = 0; i < source.Length;)
        {
            var codePoint = CodePoints.At(source, i, out var length);
            var before = lower.Length;
            AppendLower(lower, codePoint);
            sameLength &= lower.Length - before == length;
            i += length;
        }

        if (sameLength)
        {
            text.SetSameLength(lower.ToString());
            return;
        }

        var builder = text.Builder(source.Length + 16L);
        for (var i = 0; i < source.Length;)
        {
            var codePoint = CodePoints.At(source, i, out var length);
            lower.Clear();
            AppendLower(lower, codePoint);
            foreach (var unit in lower.ToString())
            {
                builder.Add(unit, text.Map.Start(i), text.Map.End(i + length - 1));
            }

            i += length;
        }

        text.Set(builder);
    }
    private static void AppendLower(StringBuilder builder, int codePoint)
    {
        var lower = RustUnicodeTables.Lower(codePoint);
        if (lower == Casing.Lower(codePoint))
        {
            Casing.AppendLower(builder, codePoint);
        }
        else
        {
            builder.Append(CodePoints.Text(lower));
        }
    }
}
