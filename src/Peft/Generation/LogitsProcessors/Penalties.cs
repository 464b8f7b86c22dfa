namespace Peft.Generation.LogitsProcessors;

/// <summary>Rules about what has been said already and what may not be said.</summary>
internal static class Penalties
{
    public static LogitsProcessor SequenceBias(IReadOnlyList<(IReadOnlyList<int> Sequence, double Bias)> biases) => (ids, _, scores) =>
    {
        foreach (var (sequence, bias) in biases)
        {
            if (EndsWith(ids, sequence, sequence.Count - 1))
            {
                Check(sequence[^1], scores);
                scores[sequence[^1]] += (float)bias;
            }
        }
    };

    public static LogitsProcessor BadWords(IReadOnlyList<IReadOnlyList<int>> words, IReadOnlyList<int> endOfText)
    {
        // transformers never forbids the end of the text this way: nothing would stop.
        var forbidden = words.Where(word => word.Count > 1 || !endOfText.Contains(word[0]));
        return SequenceBias([.. forbidden.Select(static word => (word, double.NegativeInfinity))]);
    }

    public static LogitsProcessor Repetition(float penalty) => (ids, _, scores) =>
    {
        var seen = new HashSet<int>();
        foreach (var id in ids)
        {
            if (seen.Add(id))
            {
                scores[id] = scores[id] < 0 ? scores[id] * penalty : scores[id] / penalty;
            }
        }
    };

    public static LogitsProcessor NoRepeatNgram(int size) => (ids, _, scores) =>
    {
        if (ids.Length < size)
        {
            return;
        }

        var prefix = ids[(ids.Length - size + 1)..];
        for (var start = 0; start + size <= ids.Length; start++)
        {
            if (ids.Slice(start, size - 1).SequenceEqual(prefix))
            {
                scores[ids[start + size - 1]] = float.NegativeInfinity;
            }
        }
    };

    public static LogitsProcessor MinimumLength(int count, IReadOnlyList<int> endOfText) => (_, added, scores) =>
    {
        if (added < count)
        {
            Remove(endOfText, scores);
        }
    };

    public static LogitsProcessor Suppress(IReadOnlyList<int> suppressed) => (_, _, scores) => Remove(suppressed, scores);

    private static void Remove(IReadOnlyList<int> ids, Span<float> scores)
    {
        foreach (var id in ids)
        {
            Check(id, scores);
            scores[id] = float.NegativeInfinity;
        }
    }

    private static bool EndsWith(ReadOnlySpan<int> ids, IReadOnlyList<int> sequence, int count)
    {
        if (count > ids.Length)
        {
            return false;
        }

        for (var i = 0; i < count; i++)
        {
            if (ids[ids.Length - count + i] != sequence[i])
            {
                return false;
            }
        }

        return true;
    }

    private static void Check(int id, Span<float> scores)
    {
        if ((uint)id >= (uint)scores.Length)
        {
            throw new PeftException("TokenIdOutOfRange", $"Token id {id} is outside the model's vocabulary of {scores.Length}.")
            {
                Target = id,
                RecommendedAction = "Give ids of the model's own tokenizer.",
            };
        }
    }
}
