using Peft.Tokenization;

namespace Peft.Generation.LogitsProcessors;

/// <summary>One rule that changes the scores of the next token. A removed token has the score minus infinity.</summary>
/// <param name="ids">The row's ids so far, without padding: the prompt, then what was added.</param>
/// <param name="added">How many of them were added.</param>
/// <param name="scores">Scores over the vocabulary, changed in place.</param>
public delegate void LogitsProcessor(ReadOnlySpan<int> ids, int added, Span<float> scores);

/// <summary>The rules of a set of options in the order in which transformers' <c>generate</c> applies them.</summary>
public static class LogitsProcessorChain
{
    /// <summary>Makes the rules that are on. Penalties act always, truncation rules only when sampling.</summary>
    /// <param name="options">Validated options.</param>
    /// <param name="endOfText">Ids that end a text.</param>
    public static IReadOnlyList<LogitsProcessor> Create(GenerationOptions options, IReadOnlyList<int> endOfText)
    {
        var chain = new List<LogitsProcessor>();
        void When(bool on, Func<LogitsProcessor> make)
        {
            if (on)
            {
                chain.Add(make());
            }
        }

        When(options.SequenceBias.Count > 0, () => Penalties.SequenceBias(options.SequenceBias));
        When(options.RepetitionPenalty != 1, () => Penalties.Repetition((float)options.RepetitionPenalty));
        When(options.NoRepeatNgramSize > 0, () => Penalties.NoRepeatNgram(options.NoRepeatNgramSize));
        When(options.BadWords.Count > 0, () => Penalties.BadWords(options.BadWords, endOfText));
        When(options.MinNewTokens > 0, () => Penalties.MinimumLength(options.MinNewTokens, endOfText));
        When(options.SuppressedTokens.Count > 0, () => Penalties.Suppress(options.SuppressedTokens));
        if (options.Sample)
        {
            When(options.Temperature != 1, () => Truncation.Temperature((float)options.Temperature));
            When(options.TopH is not null, () => Truncation.TopH(options.TopH!.Value));
            When(options.TopK > 0, () => Truncation.TopK(options.TopK));
            When(options.TopP < 1, () => Truncation.TopP(options.TopP));
            When(options.MinP > 0, () => Truncation.MinP((float)options.MinP));
            When(options.TypicalP < 1, () => Truncation.Typical(options.TypicalP));
            When(options.EpsilonCutoff > 0, () => Truncation.Epsilon((float)options.EpsilonCutoff));
            When(options.EtaCutoff > 0, () => Truncation.Eta(options.EtaCutoff));
            When(options.RenormalizeLogits, () => Truncation.Renormalize);
        }

        return chain;
    }
}
