using System.Text.Json.Nodes;
using Peft.Models;

namespace Peft.Generation;

/// <summary>How a text is continued. Names and meanings are those of transformers' <c>generate</c>; every rule that isn't set is off.</summary>
public sealed record GenerationOptions
{
    /// <summary>The most tokens that are added where nobody says.</summary>
    public const int StandardLength = 128;

    /// <summary>Maximum number of tokens to add; null for what <see cref="MaxLength"/> leaves, else <see cref="StandardLength"/>.</summary>
    public int? MaxNewTokens { get; init; }

    /// <summary>Maximum number of tokens of a row, those that are continued (of an encoder-decoder the start token) among them; null for no such limit.</summary>
    public int? MaxLength { get; init; }

    /// <summary>Minimum number of tokens of a row, counted in the same way: the end of the text is forbidden before.</summary>
    public int MinLength { get; init; }

    /// <summary>Minimum number of tokens to add: the end of the text is forbidden before.</summary>
    public int MinNewTokens { get; init; }

    /// <summary>Draw the next token instead of taking the likeliest. Default false: greedy.</summary>
    public bool Sample { get; init; }

    /// <summary>Divides the scores; above 0. Only with <see cref="Sample"/>.</summary>
    public double Temperature { get; init; } = 1;

    /// <summary>Keeps the k likeliest tokens, and what ties with the k-th; 0 keeps all.</summary>
    public int TopK { get; init; }

    /// <summary>Keeps the likeliest tokens that together reach this probability (Holtzman et al. 2019).</summary>
    public double TopP { get; init; } = 1;

    /// <summary>Keeps tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024).</summary>
    public double MinP { get; init; }

    /// <summary>Keeps the tokens whose surprise is nearest the expected one, up to this probability (Meister et al. 2022).</summary>
    public double TypicalP { get; init; } = 1;

    /// <summary>Keeps tokens at least this likely (Hewitt et al. 2022).</summary>
    public double EpsilonCutoff { get; init; }

    /// <summary>As <see cref="EpsilonCutoff"/>, with a limit that falls with the entropy (Hewitt et al. 2022).</summary>
    public double EtaCutoff { get; init; }

    /// <summary>Keeps the likeliest tokens up to this share of the entropy of the hundred likeliest; null keeps all (top-H, 2025).</summary>
    public double? TopH { get; init; }

    /// <summary>Divides positive scores of ids that have occurred, multiplies negative ones (Keskar et al. 2019); 1 is off.</summary>
    public double RepetitionPenalty { get; init; } = 1;

    /// <summary>The same of the prompt's ids, the other way round: above 1 they become likelier (transformers' <c>encoder_repetition_penalty</c>).</summary>
    public double PromptRepetitionPenalty { get; init; } = 1;

    /// <summary>Forbids any n-gram of this length of the prompt to come again (transformers' <c>encoder_no_repeat_ngram_size</c>); 0 is off.</summary>
    public int PromptNoRepeatNgramSize { get; init; }

    /// <summary>Forbids any n-gram of this length to occur twice; 0 is off.</summary>
    public int NoRepeatNgramSize { get; init; }

    /// <summary>Token sequences that may not be completed.</summary>
    public IReadOnlyList<IReadOnlyList<int>> BadWords { get; init; } = [];

    /// <summary>Token ids that may not come.</summary>
    public IReadOnlyList<int> SuppressedTokens { get; init; } = [];

    /// <summary>Token ids that may not come first.</summary>
    public IReadOnlyList<int> SuppressedFirstTokens { get; init; } = [];

    /// <summary>Id that has to come behind a start token that stands alone; null for none.</summary>
    public int? ForcedBeginId { get; init; }

    /// <summary>Ids of which one has to come where the maximum length is reached.</summary>
    public IReadOnlyList<int> ForcedEndIds { get; init; } = [];

    /// <summary>From how many added tokens on the end of the text becomes likelier, and the factor by which it does with each; null for never.</summary>
    public (int Start, double Factor)? LengthDecay { get; init; }

    /// <summary>Make scores that are no numbers 0 and infinite ones finite.</summary>
    public bool RemoveInvalidValues { get; init; }

    /// <summary>Number of continuations that are followed side by side (beam search); 1 for none beside the one.</summary>
    public int BeamCount { get; init; } = 1;

    /// <summary>In a search, the power of a continuation's length that its log-probability is divided by: above 0 favours long ones.</summary>
    public double LengthPenalty { get; init; } = 1;

    /// <summary>When a search ends.</summary>
    public EarlyStopping EarlyStopping { get; init; }

    /// <summary>Continuations of each prompt: the best of a search, or as many draws.</summary>
    public int ReturnCount { get; init; } = 1;

    /// <summary>What the decoder of an encoder-decoder begins with; null for the model's own.</summary>
    public int? DecoderStartId { get; init; }

    /// <summary>Which task the prompts are, for adapters that know several; null where they don't.</summary>
    public int? TaskId { get; init; }

    /// <summary>Added to the score of the last id of a sequence, wherever the ids before it stand at the end of the text.</summary>
    public IReadOnlyList<(IReadOnlyList<int> Sequence, double Bias)> SequenceBias { get; init; } = [];

    /// <summary>Make the kept scores log-probabilities again after all rules.</summary>
    public bool RenormalizeLogits { get; init; }

    /// <summary>Texts that end the continuation; they are cut off it.</summary>
    public IReadOnlyList<string> StopStrings { get; init; } = [];

    /// <summary>Ids that end a text; empty for the model's own.</summary>
    public IReadOnlyList<int> EndOfTextIds { get; init; } = [];

    /// <summary>Id that fills shorter prompts of a batch on the left; null for the model's own.</summary>
    public int? PadTokenId { get; init; }

    /// <summary>Repeats a draw exactly; null draws anew each time. A row's draws depend on its own index alone, not on its neighbours.</summary>
    public ulong? Seed { get; init; }

    /// <summary>Keep keys and values of earlier positions. Off only to compare.</summary>
    public bool UseCache { get; init; } = true;

    /// <summary>Whether decoded text holds special tokens.</summary>
    public bool ShowSpecialTokens { get; init; }

    /// <summary>Names under which <see cref="With"/> takes values, as transformers' <c>generate</c> has them.</summary>
    public static IReadOnlyCollection<string> Names => GenerationFields.Names;

    /// <summary>Takes over what a model says of how it generates: its <c>generation_config.json</c> or, where it has none, the fields for that in its <c>config.json</c>, which older models have.</summary>
    /// <inheritdoc cref="FromDefaults"/>
    /// <param name="model">The model.</param>
    /// <param name="unsupported">Takes the names of what would change texts and is not supported.</param>
    public static GenerationOptions FromModel(Adapters.Model.PeftModel model, ICollection<string>? unsupported = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        return FromDefaults(model.GenerationDefaults ?? GenerationFields.OfConfiguration(model.Config.Document), unsupported);
    }

    /// <summary>Takes over what a model's <c>generation_config.json</c> says; which tokens end and fill texts the model itself knows.</summary>
    /// <param name="defaults">The file's document, or null.</param>
    /// <param name="unsupported">Takes the names of what would change texts and is not supported.</param>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: a value of another kind.</exception>
    public static GenerationOptions FromDefaults(JsonObject? defaults, ICollection<string>? unsupported = null) =>
        GenerationFields.Read(new GenerationOptions(), new JsonObject((defaults ?? []).Where(static entry => entry.Key is not ("eos_token_id" or "pad_token_id"))
            .Select(static entry => KeyValuePair.Create(entry.Key, entry.Value?.DeepClone()))), unsupported ?? []);

    /// <summary>The options with others under the names that transformers' <c>generate</c> has for them.</summary>
    /// <param name="values">Values by name.</param>
    /// <exception cref="NotSupportedByPeftException"><c>GenerationOptionNotSupported</c>, naming them.</exception>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: a value of another kind.</exception>
    public GenerationOptions With(JsonObject values)
    {
        List<string> unsupported = [];
        var options = GenerationFields.Read(this, values, unsupported);
        return unsupported.Count == 0 ? options : throw new NotSupportedByPeftException(
            "GenerationOptionNotSupported", $"How texts are generated can't be changed by {string.Join(", ", unsupported)}: nobody knows these names, or they are not supported.")
        {
            Target = unsupported[0],
            RecommendedAction = $"Leave them out. Supported are {string.Join(", ", GenerationFields.Names)}.",
        };
    }

    /// <summary>Says which value can't be; values that only sampling uses are looked at only where <see cref="Sample"/> is set.</summary>
    /// <exception cref="PeftException"><c>GenerationOptionInvalid</c>, naming the option and its range.</exception>
    public void Validate()
    {
        Require(MaxNewTokens is null or >= 1, nameof(MaxNewTokens), "at least 1");
        Require(MaxLength is null or >= 1, nameof(MaxLength), "at least 1");
        Require(MinNewTokens >= 0 && !(MinNewTokens > MaxNewTokens), nameof(MinNewTokens), "between 0 and MaxNewTokens");
        Require(MinLength >= 0 && !(MinLength > MaxLength), nameof(MinLength), "between 0 and MaxLength");
        Require(PromptRepetitionPenalty > 0, nameof(PromptRepetitionPenalty), "above 0 (1 is off)");
        Require(PromptNoRepeatNgramSize >= 0, nameof(PromptNoRepeatNgramSize), "0 (off) or more");
        Require(BeamCount >= 1, nameof(BeamCount), "at least 1");
        Require(double.IsFinite(LengthPenalty), nameof(LengthPenalty), "a number");
        Require(ReturnCount >= 1 && (BeamCount == 1 ? Sample || ReturnCount == 1 : ReturnCount <= BeamCount), nameof(ReturnCount), "at least 1, at most the number of beams in a search, and 1 where the likeliest token is taken");
        Require(TaskId is null or >= 0, nameof(TaskId), "0 or more");
        Require(RepetitionPenalty > 0, nameof(RepetitionPenalty), "above 0 (1 is off)");
        Require(NoRepeatNgramSize >= 0, nameof(NoRepeatNgramSize), "0 (off) or more");
        Require(BadWords.All(static word => word.Count > 0), nameof(BadWords), "sequences of at least one token");
        Require(SequenceBias.All(static bias => bias.Sequence.Count > 0), nameof(SequenceBias), "sequences of at least one token");
        Require(StopStrings.All(static text => text.Length > 0), nameof(StopStrings), "texts of at least one character");
        if (Sample)
        {
            ValidateSampling();
        }
    }

    /// <summary>Values that only sampling reads may be anything without it: published configurations hold zeros and -1 there.</summary>
    private void ValidateSampling()
    {
        Require(Temperature > 0, nameof(Temperature), "above 0 (for the likeliest token each time leave sampling off)");
        Require(TopK >= 0, nameof(TopK), "0 (off) or more");
        Require(TopP is > 0 and <= 1, nameof(TopP), "above 0 and at most 1");
        Require(MinP is >= 0 and <= 1, nameof(MinP), "between 0 and 1");
        Require(TypicalP is > 0 and <= 1, nameof(TypicalP), "above 0 and at most 1");
        Require(EpsilonCutoff is >= 0 and < 1, nameof(EpsilonCutoff), "at least 0 and below 1");
        Require(EtaCutoff is >= 0 and < 1, nameof(EtaCutoff), "at least 0 and below 1");
        Require(TopH is null or (> 0 and <= 1), nameof(TopH), "above 0 and at most 1");
    }

    private static void Require(bool holds, string option, string range)
    {
        if (!holds)
        {
            throw new PeftException("GenerationOptionInvalid", $"{option} must be {range}.") { Target = option, RecommendedAction = $"Give {option} another value, or leave it out." };
        }
    }
}
