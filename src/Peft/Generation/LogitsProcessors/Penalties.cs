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

    /// <summary>As <see cref="Repetition"/>, of the prompt's ids alone.</summary>
    public static LogitsProcessor PromptRepetition(float penalty, IReadOnlyList<int> source)
    {
        int[] seen = [.. source.Distinct()];
        return (_, _, scores) =>
        {
            foreach (var id in seen)
            {
                Check(id, scores);
                scores[id] = scores[id] < 0 ? scores[id] * penalty : scores[id] / penalty;
            }
        };
    }

    /// <summary>No sequence of the prompt of this length may come again.</summary>
    public static LogitsProcessor NoNgramOf(IReadOnlyList<int> source, int size)
    {
        int[] text = [.. source];
        return (ids, _, scores) =>
        {
            if (ids.Length < size - 1)
            {
                return;
            }

            var prefix = ids[(ids.Length - size + 1)..];
            for (var start = 0; start + size <= text.Length; start++)
            {
                if (text.AsSpan(start, size - 1).SequenceEqual(prefix))
                {
                    scores[text[start + size - 1]] = float.NegativeInfinity;
                }
            }
        };
    }

    /// <summary>The end of the text may not come before the row has this many ids, those that are continued among them.</summary>
    public static LogitsProcessor MinimumTotal(int count, IReadOnlyList<int> endOfText) => (ids, _, scores) =>
    {
        if (ids.Length < count)
        {
            Remove(endOfText, scores);
        }
    };

    /// <summary>One of some ids has to come where a place asks for it.</summary>
    /// <param name="forced">The ids.</param>
    /// <param name="applies">Told how many ids the row has, and how many were added.</param>
    public static LogitsProcessor Force(IReadOnlyList<int> forced, Func<int, int, bool> applies) => (ids, added, scores) =>
    {
        if (applies(ids.Length, added))
        {
            scores.Fill(float.NegativeInfinity);
            foreach (var id in forced)
            {
                Check(id, scores);
                scores[id] = 0;
            }
        }
    };

    /// <summary>What is no number becomes 0, infinities the largest numbers there are.</summary>
    public static void RemoveInvalid(ReadOnlySpan<int> ids, int added, Span<float> scores)
    {
        foreach (ref var score in scores)
        {
            score = float.IsNaN(score) ? 0 : Math.Clamp(score, float.MinValue, float.MaxValue);
        }
    }

    /// <summary>The end of the text becomes likelier by a power that grows with every token behind a place.</summary>
    public static LogitsProcessor LengthDecay((int Start, double Factor) decay, IReadOnlyList<int> endOfText) => (_, added, scores) =>
    {
        if (added > decay.Start)
        {
            foreach (var id in endOfText)
            {
                Check(id, scores);
                scores[id] += MathF.Abs(scores[id]) * (float)(Math.Pow(decay.Factor, added - decay.Start) - 1);
            }
        }
    };

    /// <summary>Some ids may not come first; behind a forced beginning, second.</summary>
    public static LogitsProcessor SuppressFirst(IReadOnlyList<int> suppressed, bool isBehindForced) => (ids, added, scores) =>
    {
        if (added == (isBehindForced && ids.Length - added <= 1 ? 1 : 0))
        {
            Remove(suppressed, scores);
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
