using System.Text.Json.Nodes;
using Peft.Models;

namespace Peft.Generation;

/// <summary>How a text is continued. Names and meanings are those of transformers' <c>generate</c>; every rule that isn't set is off.</summary>
public sealed record GenerationOptions
{
    /// <summary>Maximum number of tokens to add. Default 128.</summary>
    public int MaxNewTokens { get; init; } = 128;

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

    /// <summary>Forbids any n-gram of this length to occur twice; 0 is off.</summary>
    public int NoRepeatNgramSize { get; init; }

    /// <summary>Token sequences that may not be completed.</summary>
    public IReadOnlyList<IReadOnlyList<int>> BadWords { get; init; } = [];

    /// <summary>Token ids that may not come.</summary>
    public IReadOnlyList<int> SuppressedTokens { get; init; } = [];

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

    /// <summary>Takes over what a model's <c>generation_config.json</c> says of sampling.</summary>
    /// <param name="defaults">The file's document, or null.</param>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: a value of another kind.</exception>
    public static GenerationOptions FromDefaults(JsonObject? defaults)
    {
        var values = new ModelConfig(defaults ?? []);
        return new GenerationOptions
        {
            Sample = values.Boolean("do_sample") ?? false,
            Temperature = values.Number("temperature") ?? 1,
            TopK = (int)Math.Clamp(values.Integer("top_k") ?? 0, -1, int.MaxValue),
            TopP = values.Number("top_p") ?? 1,
            MinP = values.Number("min_p") ?? 0,
            RepetitionPenalty = values.Number("repetition_penalty") ?? 1,
        };
    }

    /// <summary>Says which value can't be; values that only sampling uses are looked at only where <see cref="Sample"/> is set.</summary>
    /// <exception cref="PeftException"><c>GenerationOptionInvalid</c>, naming the option and its range.</exception>
    public void Validate()
    {
        Require(MaxNewTokens >= 1, nameof(MaxNewTokens), "at least 1");
        Require(MinNewTokens >= 0 && MinNewTokens <= MaxNewTokens, nameof(MinNewTokens), "between 0 and MaxNewTokens");
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
