using System.Text.Json.Nodes;
using Peft.Generation;

namespace Peft.Training.Policy;

/// <summary>How answers are drawn and rated, by the names that TRL has for it.</summary>
internal sealed record PolicySettings
{
    private PolicySettings()
    {
    }

    /// <summary>Answers to each prompt (<c>num_generations</c>). Default 8 as with TRL's GRPO.</summary>
    public int GroupSize { get; private init; }

    /// <summary>Optimiser steps made with the same answers (<c>num_iterations</c>).</summary>
    public int Iterations { get; private init; }

    /// <summary>Maximum length of an answer in tokens (<c>max_completion_length</c>).</summary>
    public int MaxLength { get; private init; }

    /// <summary>What advantages are divided by: the spread of rewards in the <c>group</c>, in the <c>batch</c>, or <c>none</c> (<c>scale_rewards</c>).</summary>
    public string Scale { get; private init; } = "";

    /// <summary>Whether answers that the maximum length ended are learnt nothing of (<c>mask_truncated_completions</c>).</summary>
    public bool MasksTruncated { get; private init; }

    /// <summary>What the scores of tokens are divided by, in drawing and in the loss alike.</summary>
    public double Temperature { get; private init; }

    /// <summary>Weights of the rewards (<c>reward_weights</c>); null for 1 each.</summary>
    public IReadOnlyList<double>? Weights { get; private init; }

    /// <summary>How answers are drawn.</summary>
    public GenerationOptions Generation { get; private init; } = new();

    /// <summary>Reads the options.</summary>
    /// <param name="options">TRL's options.</param>
    /// <param name="groupSize">Answers to each prompt where nobody says.</param>
    public static PolicySettings Of(NamedOptions options, int groupSize)
    {
        var settings = new PolicySettings
        {
            GroupSize = options.Integer("num_generations") ?? groupSize,
            Iterations = options.Integer("num_iterations") ?? 1,
            MaxLength = options.Integer("max_completion_length") ?? 256,
            Scale = options.Choice("scale_rewards", "group", "batch", "none"),
            MasksTruncated = options.Flag("mask_truncated_completions") ?? false,
            Temperature = options.Number("temperature") ?? 1,
            Weights = options.Numbers("reward_weights"),
        };
        options.Require(settings.GroupSize >= 2, "num_generations", "at least 2: an answer is compared with the others to its prompt");
        options.Require(settings.Iterations >= 1, "num_iterations", "1 or more");
        options.Require(settings.MaxLength >= 1, "max_completion_length", "1 or more");
        options.Require(settings.Temperature > 0, "temperature", "above 0");
        var given = new JsonObject();
        foreach (var (name, value) in ((string, double?)[])[
            ("top_p", options.Number("top_p")), ("top_k", options.Integer("top_k")), ("min_p", options.Number("min_p")), ("repetition_penalty", options.Number("repetition_penalty"))])
        {
            if (value is { } number)
            {
                given[name] = name == "top_k" ? JsonValue.Create((int)number) : JsonValue.Create(number);
            }
        }

        // Said once more by the batch that the answers were cut into; the training's own options decide.
        _ = options.Integer("per_device_train_batch_size");
        return settings with
        {
            Generation = new GenerationOptions { Sample = true, Temperature = settings.Temperature, MaxNewTokens = settings.MaxLength }.With(given),
        };
    }
}
