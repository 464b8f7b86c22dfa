namespace Peft.Tokenization.PostProcessors;

/// <summary>An encoding while it is truncated, wrapped, joined and padded.</summary>
internal sealed class EncodingParts
{
    private Dictionary<int, string>? _ownTexts;
    private readonly Tokenizer? _tokenizer;
    private readonly IReadOnlyList<string> _sources;

    /// <summary>Takes over the lists of an encoding of a text, or of several words.</summary>
    public EncodingParts(TokenEncoding encoding, params IReadOnlyList<string> sources)
        : this(encoding.Tokenizer, encoding.Ids, encoding.TypeIds, encoding.AttentionMask, encoding.SpecialTokensMask, encoding.Offsets,
            encoding.WordIds, encoding.SequenceIds, encoding.OwnTexts, sources)
    {
        Overflowing.AddRange(encoding.Overflowing.Select(part => new EncodingParts(part, sources)));
    }

    private EncodingParts(Tokenizer? tokenizer, int[] ids, int[] typeIds, int[] attentionMask, int[] specialTokensMask,
        (int Start, int End)[] offsets, int[] wordIds, int[] sequenceIds, Dictionary<int, string>? ownTexts,
        IReadOnlyList<string> sources)
    {
        _sources = sources;
        _tokenizer = tokenizer;
        Ids = ids;
        TypeIds = typeIds;
        AttentionMask = attentionMask;
        SpecialTokensMask = specialTokensMask;
        Offsets = offsets;
        WordIds = wordIds;
        SequenceIds = sequenceIds;
        _ownTexts = ownTexts;
    }

    public int[] Ids { get; private set; }

    public int[] TypeIds { get; private set; }

    public int[] AttentionMask { get; private set; }

    public int[] SpecialTokensMask { get; private set; }

    public (int Start, int End)[] Offsets { get; private set; }

    public int[] WordIds { get; private set; }

    public int[] SequenceIds { get; private set; }

    /// <summary>What truncation cut off.</summary>
    public List<EncodingParts> Overflowing { get; private set; } = [];

    /// <summary>How a token is spelled.</summary>
    public string TokenText(int index) =>
        _ownTexts is not null && _ownTexts.TryGetValue(index, out var own) ? own : _tokenizer?.TokenText(Ids[index]) ?? string.Empty;

    /// <summary>The text that a token's offsets count in.</summary>
    public string SourceText(int index) => _sources.Count switch
    {
        0 => string.Empty,
        1 => _sources[0],
        _ => _sources[Math.Max(WordIds[index], 0)],
    };

    /// <summary>Special tokens alone.</summary>
    public static EncodingParts Special(IReadOnlyList<AddedPart> tokens, int typeId)
    {
        var count = tokens.Count;
        var parts = new EncodingParts(null, [.. tokens.Select(token => token.Id)], Filled(count, typeId), Filled(count, 1), Filled(count, 1),
            new (int, int)[count], Filled(count, -1), Filled(count, -1), null, []);
        for (var i = 0; i < count; i++)
        {
            (parts._ownTexts ??= [])[i] = tokens[i].Text;
        }

        return parts;
    }

    /// <summary>This encoding, and each of its overflow, between two special tokens.</summary>
    public EncodingParts Wrapped(AddedPart? before, AddedPart after, int typeId)
    {
        var result = Concatenate([.. Pieces(this)]);
        result.Overflowing = Overflowing.ConvertAll(part => Concatenate([.. Pieces(part)]));
        return result;

        IEnumerable<EncodingParts> Pieces(EncodingParts inner)
        {
            Array.Clear(inner.SpecialTokensMask);
            return before is { } first ? [Special([first], typeId), inner, Special([after], typeId)] : [inner, Special([after], typeId)];
        }
    }

    /// <summary>
    /// Joins encodings and their overflow: every overflow of one with the other itself and with each of its overflow, then the one itself
    /// with each overflow of the other.
    /// </summary>
    public static EncodingParts Merge(IReadOnlyList<EncodingParts> parts)
    {
        if (parts.Count == 1)
        {
            return parts[0];
        }

        if (parts.Count == 0)
        {
            return Special([], 0);
        }

        if (parts.All(part => part.Overflowing.Count == 0))
        {
            return Concatenate(parts);
        }

        return parts.Skip(1).Aggregate(parts[0], (left, right) =>
        {
            var overflowing = new List<EncodingParts>();
            foreach (var mine in left.Overflowing)
            {
                overflowing.Add(Concatenate([mine, right]));
                overflowing.AddRange(right.Overflowing.Select(theirs => Concatenate([mine, theirs])));
            }

            overflowing.AddRange(right.Overflowing.Select(theirs => Concatenate([left, theirs])));
            var joined = Concatenate([left, right]);
            joined.Overflowing = overflowing;
            return joined;
        });
    }

    /// <summary>Cuts to a length; the rest becomes overflow in windows that share <paramref name="stride"/> tokens.</summary>
    public void Truncate(int length, int stride, TruncationDirection direction)
    {
        var count = Ids.Length;
        if (length >= count)
        {
            return;
        }

        if (length == 0)
        {
            var all = Part(0, count);
            Take(0, 0);
            Overflowing = [all];
            return;
        }

        if (stride >= length)
        {
            throw new PeftException("TruncationStrideTooLong",
                $"The truncation stride of {stride} has to be smaller than the {length} tokens that are left for the text.");
        }

        var step = length - stride;
        var windows = new List<(int Start, int End)>();
        if (direction == TruncationDirection.Right)
        {
            for (var start = 0; ; start += step)
            {
                var end = Math.Min(start + length, count);
                windows.Add((start, end));
                if (end == count)
                {
                    break;
                }
            }
        }
        else
        {
            for (var end = count; ; end -= step)
            {
                var start = Math.Max(end - length, 0);
                windows.Add((start, end));
                if (start == 0)
                {
                    break;
                }
            }
        }

        var overflowing = windows.Skip(1).Select(window => Part(window.Start, window.End)).ToList();
        Take(windows[0].Start, windows[0].End);
        Overflowing = overflowing;
    }

    /// <summary>Fills up to a length with padding.</summary>
    public void Pad(int length, Padding padding)
    {
        foreach (var part in Overflowing)
        {
            part.Pad(length, padding);
        }

        var missing = length - Ids.Length;
        if (missing <= 0)
        {
            return;
        }

        var fill = Special([.. Enumerable.Repeat(new AddedPart(padding.Id, padding.Token), missing)], padding.TypeId);
        Array.Clear(fill.AttentionMask);
        var joined = padding.Direction == PaddingDirection.Right ? Concatenate([this, fill]) : Concatenate([fill, this]);
        (Ids, TypeIds, AttentionMask, SpecialTokensMask, Offsets, WordIds, SequenceIds, _ownTexts) = (joined.Ids, joined.TypeIds,
            joined.AttentionMask, joined.SpecialTokensMask, joined.Offsets, joined.WordIds, joined.SequenceIds, joined._ownTexts);
    }

    /// <summary>The finished encoding.</summary>
    public TokenEncoding ToEncoding(Tokenizer tokenizer) =>
        new(tokenizer, Ids, TypeIds, AttentionMask, SpecialTokensMask, Offsets, WordIds, SequenceIds, _ownTexts)
        {
            Overflowing = Overflowing.Count == 0 ? [] : Overflowing.ConvertAll(part => part.ToEncoding(tokenizer)),
        };

    private static EncodingParts Concatenate(IReadOnlyList<EncodingParts> parts)
    {
        Dictionary<int, string>? ownTexts = null;
        var at = 0;
        foreach (var part in parts)
        {
            foreach (var (index, text) in part._ownTexts ?? [])
            {
                (ownTexts ??= [])[at + index] = text;
            }

            at += part.Ids.Length;
        }

        return new EncodingParts(parts.Select(part => part._tokenizer).FirstOrDefault(tokenizer => tokenizer is not null),
            Join(part => part.Ids), Join(part => part.TypeIds), Join(part => part.AttentionMask), Join(part => part.SpecialTokensMask),
            Join(part => part.Offsets), Join(part => part.WordIds), Join(part => part.SequenceIds), ownTexts,
            parts.Select(part => part._sources).FirstOrDefault(sources => sources.Count > 0) ?? []);

        T[] Join<T>(Func<EncodingParts, T[]> list)
        {
            var joined = new T[at];
            var filled = 0;
            foreach (var part in parts)
            {
                var values = list(part);
                values.CopyTo(joined, filled);
                filled += values.Length;
            }

            return joined;
        }
    }

    private EncodingParts Part(int start, int end)
    {
        var texts = _ownTexts?.Where(own => own.Key >= start && own.Key < end).ToDictionary(own => own.Key - start, own => own.Value);
        return new EncodingParts(_tokenizer, Ids[start..end], TypeIds[start..end], AttentionMask[start..end], SpecialTokensMask[start..end],
            Offsets[start..end], WordIds[start..end], SequenceIds[start..end], texts, _sources);
    }

    private void Take(int start, int end)
    {
        var part = Part(start, end);
        (Ids, TypeIds, AttentionMask, SpecialTokensMask, Offsets, WordIds, SequenceIds, _ownTexts) = (part.Ids, part.TypeIds,
            part.AttentionMask, part.SpecialTokensMask, part.Offsets, part.WordIds, part.SequenceIds, part._ownTexts);
    }

    private static int[] Filled(int count, int value)
    {
        var values = new int[count];
        Array.Fill(values, value);
        return values;
    }
}
