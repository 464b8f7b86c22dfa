using Peft.Tokenization.Text;

namespace Peft.Tokenization.PostProcessors;

/// <summary>Puts the special tokens around one or two encodings.</summary>
internal abstract class PostProcessor
{
    /// <summary>How many tokens it adds.</summary>
    public abstract int AddedTokens(bool pair);

    /// <summary>Works on the one or two encodings in place or replaces them; they are concatenated afterwards.</summary>
    public abstract List<EncodingParts> Process(List<EncodingParts> encodings, bool addSpecialTokens);
}

/// <summary>Several post-processors after each other.</summary>
internal sealed class SequencePostProcessor(IReadOnlyList<PostProcessor> steps) : PostProcessor
{
    /// <inheritdoc/>
    public override int AddedTokens(bool pair) => steps.Sum(step => step.AddedTokens(pair));

    /// <inheritdoc/>
    public override List<EncodingParts> Process(List<EncodingParts> encodings, bool addSpecialTokens) =>
        steps.Aggregate(encodings, (current, step) => step.Process(current, addSpecialTokens));
}

/// <summary>A token that a post-processor adds.</summary>
internal readonly record struct AddedPart(int Id, string Text);

/// <summary>The template of a tokenizer: a list of sequences and special tokens, one for single texts and one for pairs.</summary>
internal sealed class TemplatePostProcessor(IReadOnlyList<TemplatePart> single, IReadOnlyList<TemplatePart> pair) : PostProcessor
{
    /// <inheritdoc/>
    public override int AddedTokens(bool isPair) => (isPair ? pair : single).Sum(part => part.Tokens.Count);

    /// <inheritdoc/>
    public override List<EncodingParts> Process(List<EncodingParts> encodings, bool addSpecialTokens)
    {
        var template = encodings.Count > 1 ? pair : single;
        var result = new List<EncodingParts>(template.Count);
        foreach (var part in template)
        {
            if (part.Sequence is { } sequence)
            {
                if (sequence >= encodings.Count)
                {
                    continue;
                }

                var encoding = encodings[sequence];
                Array.Fill(encoding.TypeIds, part.TypeId);
                Array.Fill(encoding.SequenceIds, sequence);
                result.Add(encoding);
            }
            else if (addSpecialTokens)
            {
                result.Add(EncodingParts.Special(part.Tokens, part.TypeId));
            }
        }

        return result;
    }
}

/// <summary>One entry of a template: sequence 0 or 1, or special tokens.</summary>
internal sealed record TemplatePart(int? Sequence, int TypeId, IReadOnlyList<AddedPart> Tokens);

/// <summary><c>[CLS] A [SEP] B [SEP]</c> with the type ids of BERT.</summary>
internal sealed class BertPostProcessor(AddedPart cls, AddedPart sep) : PostProcessor
{
    /// <inheritdoc/>
    public override int AddedTokens(bool pair) => pair ? 3 : 2;

    /// <inheritdoc/>
    public override List<EncodingParts> Process(List<EncodingParts> encodings, bool addSpecialTokens) => addSpecialTokens
        ? encodings.ConvertAll(encoding => encoding == encodings[0]
            ? encoding.Wrapped(cls, sep, 0)
            : encoding.Wrapped(null, sep, 1))
        : encodings;
}

/// <summary><c>&lt;s&gt; A &lt;/s&gt; &lt;/s&gt; B &lt;/s&gt;</c>, every type id 0, and offsets without the spaces of byte-level tokens.</summary>
internal sealed class RobertaPostProcessor(AddedPart cls, AddedPart sep, bool trimOffsets, bool addPrefixSpace) : PostProcessor
{
    /// <inheritdoc/>
    public override int AddedTokens(bool pair) => pair ? 4 : 2;

    /// <inheritdoc/>
    public override List<EncodingParts> Process(List<EncodingParts> encodings, bool addSpecialTokens)
    {
        if (trimOffsets)
        {
            ByteLevelPostProcessor.Trim(encodings, addPrefixSpace);
        }

        foreach (var encoding in encodings)
        {
            Array.Clear(encoding.TypeIds);
        }

        if (!addSpecialTokens)
        {
            return encodings;
        }

        encodings.ForEach(encoding => encoding.Overflowing.ForEach(part => Array.Clear(part.TypeIds)));
        return encodings.ConvertAll(encoding => encoding.Wrapped(encoding == encodings[0] ? cls : sep, sep, 0));
    }
}

/// <summary>Takes the spaces that byte-level tokens carry out of their offsets.</summary>
internal sealed class ByteLevelPostProcessor(bool trimOffsets, bool addPrefixSpace) : PostProcessor
{
    /// <inheritdoc/>
    public override int AddedTokens(bool pair) => 0;

    /// <inheritdoc/>
    public override List<EncodingParts> Process(List<EncodingParts> encodings, bool addSpecialTokens)
    {
        if (trimOffsets)
        {
            Trim(encodings, addPrefixSpace);
        }

        return encodings;
    }

    /// <summary>Moves the offsets of every token past its leading and before its trailing spaces.</summary>
    public static void Trim(List<EncodingParts> encodings, bool addPrefixSpace)
    {
        foreach (var encoding in encodings)
        {
            Trim(encoding, addPrefixSpace);
            encoding.Overflowing.ForEach(part => Trim(part, addPrefixSpace));
        }
    }

    private static void Trim(EncodingParts encoding, bool addPrefixSpace)
    {
        for (var i = 0; i < encoding.Ids.Length; i++)
        {
            var token = encoding.TokenText(i);
            var (leading, trailing) = (0, 0);
            while (leading < token.Length && IsSpace(token[leading]))
            {
                leading++;
            }

            while (trailing < token.Length && IsSpace(token[^(trailing + 1)]))
            {
                trailing++;
            }

            if (leading + trailing == 0)
            {
                continue;
            }

            var text = encoding.SourceText(i);
            var (start, end) = encoding.Offsets[i];

            // The tokenizers library leaves the end where it is if the text before it is shorter than what is to be taken off.
            trailing = end < trailing * 2 && CodePoints.Count(text.AsSpan(0, end)) < trailing ? 0 : trailing;

            // A single space at the start of the text is the prefix space, which isn't in the text: nothing is to be skipped for it.
            leading = leading == 1 && addPrefixSpace && (i == 0 || start == 0) ? 0 : leading;
            for (; leading > 0 && start < end; leading--)
            {
                CodePoints.At(text, start, out var length);
                start += length;
            }

            for (; trailing > 0 && end > start; trailing--)
            {
                CodePoints.Before(text, end, out var length);
                end -= length;
            }

            encoding.Offsets[i] = (start, end);
        }
    }

    private static bool IsSpace(char unit) => unit == '\u0120' || char.IsWhiteSpace(unit);
}
