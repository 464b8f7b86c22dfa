using Peft.Adapters.Configuration;
using Peft.Adapters.Methods.Prompts;
using Peft.Models;
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
public sealed record PromptTuningConfig : TextPromptConfig
{
    /// <inheritdoc/>
    public override string PeftType => "PROMPT_TUNING";

    /// <summary>How the virtual tokens start: <c>RANDOM</c>, <c>TEXT</c> with the vectors of a text, or <c>SAMPLE_VOCAB</c> with those of random tokens.</summary>
    [ConfigField("prompt_tuning_init", Parameter = "Initialization", Choices = ["RANDOM", "TEXT", "SAMPLE_VOCAB"])]
    public PromptStart Start { get; init; }

    private protected override bool NeedsText => Start == PromptStart.Text;

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
        using var scope = NewDisposeScope();
        return (_config.Start switch
        {
            PromptStart.Random => base.Start(generator),
            PromptStart.Text => VectorsOf(((PromptTuningConfig)Config).TextIds(Table.Shape[0])),
            _ => VectorsOf(randint(0, Base.Backbone.TokenEmbeddings?.Count ?? 1, [Table.Shape[0]], ScalarType.Int64, generator: generator)),
        }).MoveToOuterDisposeScope();
    }
}
