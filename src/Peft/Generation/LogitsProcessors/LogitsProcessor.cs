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
    /// <param name="source">The prompt, for rules about it; null for none.</param>
    /// <param name="maxAdded">The most tokens that are added; null for those of the options.</param>
    public static IReadOnlyList<LogitsProcessor> Create(
        GenerationOptions options, IReadOnlyList<int> endOfText, IReadOnlyList<int>? source = null, int? maxAdded = null)
    {
        source ??= [];
        var last = maxAdded ?? options.MaxNewTokens ?? GenerationOptions.StandardLength;
        var chain = new List<LogitsProcessor>();
        void When(bool on, Func<LogitsProcessor> make)
        {
            if (on)
            {
                chain.Add(make());
            }
        }

        When(options.SequenceBias.Count > 0, () => Penalties.SequenceBias(options.SequenceBias));
        When(options.PromptRepetitionPenalty != 1, () => Penalties.PromptRepetition(1 / (float)options.PromptRepetitionPenalty, source));
        When(options.RepetitionPenalty != 1, () => Penalties.Repetition((float)options.RepetitionPenalty));
        When(options.NoRepeatNgramSize > 0, () => Penalties.NoRepeatNgram(options.NoRepeatNgramSize));
        When(options.PromptNoRepeatNgramSize > 0, () => Penalties.NoNgramOf(source, options.PromptNoRepeatNgramSize));
        When(options.BadWords.Count > 0, () => Penalties.BadWords(options.BadWords, endOfText));
        When(options.MinLength > 0, () => Penalties.MinimumTotal(options.MinLength, endOfText));
        When(options.MinNewTokens > 0, () => Penalties.MinimumLength(options.MinNewTokens, endOfText));
        When(options.ForcedBeginId is not null, () => Penalties.Force([options.ForcedBeginId!.Value], static (ids, _) => ids == 1));
        When(options.ForcedEndIds.Count > 0, () => Penalties.Force(options.ForcedEndIds, (_, added) => added == last - 1));
        When(options.RemoveInvalidValues, () => Penalties.RemoveInvalid);
        When(options.LengthDecay is not null, () => Penalties.LengthDecay(options.LengthDecay!.Value, endOfText));
        When(options.SuppressedTokens.Count > 0, () => Penalties.Suppress(options.SuppressedTokens));
        When(options.SuppressedFirstTokens.Count > 0, () => Penalties.SuppressFirst(options.SuppressedFirstTokens, options.ForcedBeginId is not null));
        if (options.Sample)
        {
            // A search that draws has to be left more than what ends the text.
            var atLeast = options.BeamCount > 1 ? Math.Max(2, endOfText.Count + 1) : 1;
            When(options.Temperature != 1, () => Truncation.Temperature((float)options.Temperature));
            When(options.TopH is not null, () => Truncation.TopH(options.TopH!.Value));
            When(options.TopK > 0, () => Truncation.TopK(Math.Max(options.TopK, atLeast)));
            When(options.TopP < 1, () => Truncation.TopP(options.TopP, atLeast));
            When(options.MinP > 0, () => Truncation.MinP((float)options.MinP, atLeast));
            When(options.TypicalP < 1, () => Truncation.Typical(options.TypicalP, atLeast));
            When(options.EpsilonCutoff > 0, () => Truncation.Epsilon((float)options.EpsilonCutoff, atLeast));
            When(options.EtaCutoff > 0, () => Truncation.Eta(options.EtaCutoff, atLeast));
        }

        // Without drawing or searching it changes no choice.
        When(options.RenormalizeLogits && (options.Sample || options.BeamCount > 1), () => Truncation.Renormalize);

        return chain;
    }
}
