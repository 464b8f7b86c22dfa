using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;

namespace Peft.Adapters.Methods.TextualInversion;

/// <summary>
/// Textual inversion (Gal et al. 2022): vectors that the text encoders of a diffusion model read in the place of a word, and nothing else, are trained.
/// Wherever the adapter acts, the word stands for them in prompts.
/// </summary>
[ConfigWithout("exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save")]
public sealed record TextualInversionConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "TEXTUAL_INVERSION";

    /// <summary>The word that stands for the vectors in prompts, such as <c>&lt;my-toy&gt;</c>; upper and lower case are the same.</summary>
    [ConfigField("placeholder_token", Parameter = "Token")]
    public string? Token { get; init; }

    /// <summary>Number of vectors: tokens that the word takes of a prompt.</summary>
    [ConfigField("num_vectors", Parameter = "VectorCount", Minimum = 1)]
    public int Vectors { get; init; } = 1;

    /// <summary>A text whose tokens' vectors the training begins with, in turn where it has fewer; a word for what is learnt, such as <c>toy</c>. Without it an asterisk, as in the web UI.</summary>
    [ConfigField("initializer_token", Parameter = "StartText")]
    public string? StartText { get; init; }

    /// <inheritdoc/>
    internal override bool SavesEmbeddings => false;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (string.IsNullOrWhiteSpace(Token) || Token.Any(char.IsWhiteSpace))
        {
            throw new PeftException("PlaceholderTokenInvalid", Token is null ? "A textual inversion needs a word that stands for it in prompts." : $"'{Token}' can't stand for a textual inversion: it must be one word without blanks.")
            {
                Target = "placeholder_token",
                RecommendedAction = "Give -Token a word that prompts have for nothing else, such as <my-toy>.",
            };
        }
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new TextualInversionAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Embedding table ? new TextualInversionLayer(table, Token!, Vectors, () => ((TextualInversionAdapter)adapter).StartIds(table)) : throw KindRefused(layer);
}

/// <summary>A textual inversion on the token embeddings of a model's text encoders.</summary>
public sealed class TextualInversionAdapter(string name, TextualInversionConfig config) : LayerwiseAdapter(name, config)
{
    private const string UsualStart = "*";
    private PretrainedModel? _model;

    /// <inheritdoc/>
    public override void Declare(PretrainedModel model, ICollection<string> messages)
    {
        _model = model;
        Config = Config with { TargetModules = Config.TargetModules ?? ModuleNames.Of("token_embedding") };
        base.Declare(model, messages);
    }

    /// <summary>The tokens whose vectors a training begins with.</summary>
    /// <exception cref="PeftException"><c>StartTextInvalid</c>.</exception>
    internal IReadOnlyList<int> StartIds(Embedding table)
    {
        var text = ((TextualInversionConfig)Config).StartText ?? UsualStart;
        return _model!.TokensOf(table, text) is { Count: > 0 } ids ? ids : throw new PeftException("StartTextInvalid", $"'{text}' is no token of '{table.Path}'.")
        {
            Target = "initializer_token",
            RecommendedAction = "Give -StartText a word that the model's tokenizer knows, and a model that has its tokenizers.",
        };
    }
}
