using System.Text.Json.Nodes;
using Peft.Adapters.Configuration;
using Peft.Adapters.Files;
using Peft.Adapters.Methods.Prompts;
using Peft.Models;
using Peft.Tokenization;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.PromptTuning;

/// <summary>With what the table of virtual tokens starts.</summary>
public enum PromptStart
{
    /// <summary>Normal random numbers.</summary>
    Random,

    /// <summary>The vectors of a text's tokens, repeated or cut to the number of virtual tokens.</summary>
    Text,

    /// <summary>The vectors of tokens drawn from the vocabulary.</summary>
    SampleVocabulary,
}

/// <summary>
/// Prompt tuning (Lester et al. 2021): vectors in place of tokens stand in front of every row; they alone are trained.
/// Defaults are PEFT's.
/// </summary>
public sealed record PromptTuningConfig : PromptConfig
{
    /// <inheritdoc/>
    public override string PeftType => "PROMPT_TUNING";

    /// <summary>How the virtual tokens start: <c>RANDOM</c>, <c>TEXT</c> with the vectors of a text, or <c>SAMPLE_VOCAB</c> with those of random tokens.</summary>
    [ConfigField("prompt_tuning_init", Parameter = "Initialization", Choices = ["RANDOM", "TEXT", "SAMPLE_VOCAB"])]
    public PromptStart Start { get; init; }

    /// <summary>The text to start from.</summary>
    [ConfigField("prompt_tuning_init_text", Parameter = "InitializationText")]
    public string? StartText { get; init; }

    /// <summary>Folder of the tokenizer that reads the text; without it the model's own does.</summary>
    [ConfigField("tokenizer_name_or_path", Parameter = "TokenizerPath")]
    public string? TokenizerPath { get; init; }

    /// <summary>What PEFT gives to its tokenizer; kept, and without effect here.</summary>
    [ConfigField("tokenizer_kwargs")]
    public JsonNode? TokenizerOptions { get; init; }

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (Start == PromptStart.Text && string.IsNullOrEmpty(StartText))
        {
            throw Contradiction("prompt_tuning_init TEXT needs prompt_tuning_init_text.");
        }
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new PromptTuningAdapter(name, this);
}

/// <summary>Prompt tuning on a model.</summary>
public sealed class PromptTuningAdapter(string name, PromptTuningConfig config) : PromptAdapter(name, config)
{
    private readonly PromptTuningConfig _config = config;

    private protected override VirtualPrompt Prompt(Tensor values, ForwardContext pass) =>
        new(Config.VirtualTokens!.Value) { Embeddings = FirstPart(values, pass) };

    private protected override Tensor Start(Generator generator)
    {
        if (_config.Start == PromptStart.Random)
        {
            return base.Start(generator);
        }

        using var scope = NewDisposeScope();
        var vectors = Base.Backbone.TokenEmbeddings ?? throw new PeftException("PromptDoesNotFit", $"{Base.ClassName} has no tokens whose vectors a prompt could start from.") { Target = Name };
        var ids = _config.Start == PromptStart.Text
            ? tensor(TextIds(_config.StartText!, Table.Shape[0]))
            : randint(0, vectors.Count, [Table.Shape[0]], ScalarType.Int64, generator: generator);
        return vectors.Weight.Data.index_select(0, ids.to(Device)).to(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    private long[] TextIds(string text, long count)
    {
        var path = _config.TokenizerPath ?? Config.BaseModelName!;
        var tokenizer = Directory.Exists(path) || File.Exists(path) ? ModelFiles.FindTokenizer(path) : null;
        var ids = tokenizer?.EncodeIds(text) ?? throw new PeftException("TokenizerMissing", $"The prompt starts from a text, and there is no tokenizer in '{path}' to read it with.")
        {
            Target = path,
            RecommendedAction = "Give the folder of a tokenizer as tokenizer_name_or_path.",
        };
        return ids.Length > 0 ? [.. Enumerable.Range(0, (int)count).Select(i => (long)ids[i % ids.Length])] : throw new PeftException(
            "AdapterConfigContradictory", "prompt_tuning_init_text has no token to start from.") { Target = text };
    }
}
