using System.Text.Json.Nodes;
using Peft.Models.Gguf;
using Peft.Models.Heads;

namespace Peft.Models;

/// <summary>A family of models: a row of <see cref="ArchitectureRegistry"/>. Families that differ by flags share a backbone.</summary>
/// <param name="ModelType"><c>model_type</c> in configurations, such as <c>mistral</c>.</param>
/// <param name="Stem">Begins the names of transformers' classes, such as <c>Mistral</c> in <c>MistralAttention</c>.</param>
/// <param name="Backbone">Makes the structure between token ids and the last hidden states.</param>
public sealed record Family(string ModelType, string Stem, Func<ModelConfig, Backbone> Backbone)
{
    /// <summary>
    /// A model of several parts of which text is one: its configuration has the language model's inside (<c>text_config</c>), whose own
    /// family computes it. What belongs to the other parts is carried along.
    /// </summary>
    /// <param name="modelType"><c>model_type</c> of the whole.</param>
    /// <param name="stem">Begins the names of the whole's classes.</param>
    /// <param name="textType"><c>model_type</c> of the language model where its configuration doesn't say.</param>
    /// <param name="rules">How files call the language model.</param>
    public static Family Around(string modelType, string stem, string textType, params IReadOnlyList<KeyRule> rules) => new(modelType, stem, config =>
    {
        var text = config.Text();
        return ArchitectureRegistry.Find(text.ModelType.Length > 0 ? text.ModelType : textType) is { } family
            ? family.Backbone(text.For(family))
            : throw new NotSupportedByPeftException("ArchitectureNotSupported", $"The language model '{text.ModelType}' inside '{modelType}' is not supported.")
            {
                Target = text.ModelType,
                RecommendedAction = $"Supported are: {string.Join(", ", ArchitectureRegistry.Families.Select(static family => family.ModelType))}.",
            };
    })
    {
        Prefix = "model.language_model",
        Heads = [new("ForConditionalGeneration", "CAUSAL_LM", static (config, name) => new CausalModel(config, name))],
        Keys = new KeyMap(rules),

        // Whether the output layer is shared follows the whole, whatever the language model's own configuration says.
        Defaults = new JsonObject { ["tie_word_embeddings"] = true },
    };

    /// <summary>The names of the language model in files that put it beside the other parts.</summary>
    public static IReadOnlyList<KeyRule> LanguageModelFirst { get; } =
        [new("model.language_model", "language_model.model"), new("lm_head", "language_model.lm_head")];

    /// <summary>Where the backbone stands in models with a head, and in their checkpoints.</summary>
    public string Prefix { get; init; } = "model";

    /// <summary>Whether models with a head list the backbone after it.</summary>
    public bool ListsBackboneLast { get; init; }

    /// <summary>The heads there are; the first is taken where a configuration names none.</summary>
    public IReadOnlyList<HeadRow> Heads { get; init; } = HeadRow.Decoder;

    /// <summary>How the family's files call what the tree calls otherwise.</summary>
    public KeyMap Keys { get; init; } = KeyMap.Identity;

    /// <summary>Names that the family's files may give keys, which are then read in their place.</summary>
    public IReadOnlyDictionary<string, string> OtherNames { get; init; } = new Dictionary<string, string>();

    /// <summary>How GGUF files hold the family's models; null where they aren't read.</summary>
    internal GgufMap? Gguf { get; init; }

    /// <summary>What transformers takes where a configuration leaves a key out and the backbone's own default is another.</summary>
    public JsonObject? Defaults { get; init; }
}

/// <summary>A head of a family.</summary>
/// <param name="Suffix">Ends the class name, such as <c>ForCausalLM</c>.</param>
/// <param name="Task">PEFT's task type, such as <c>CAUSAL_LM</c>.</param>
/// <param name="Make">Makes the model from its configuration and its class name.</param>
public sealed record HeadRow(string Suffix, string Task, Func<ModelConfig, string, PretrainedModel> Make)
{
    /// <summary>The backbone alone.</summary>
    public static HeadRow Features { get; } = new("Model", "FEATURE_EXTRACTION", static (config, name) => new FeatureModel(config.Family.Backbone(config), name));

    /// <summary>What transformers builds over most decoders.</summary>
    public static IReadOnlyList<HeadRow> Decoder { get; } = DecoderWith();

    /// <summary>The heads of a decoder, some with other names.</summary>
    /// <param name="causal">Ends the class name of the model that continues text.</param>
    /// <param name="tokenHead">Name of the output layer that labels tokens.</param>
    /// <param name="questionPrefix">Where the backbone stands below the head for questions; null for the family's prefix.</param>
    /// <param name="causalBias">Whether the output layer that continues text has a bias.</param>
    public static IReadOnlyList<HeadRow> DecoderWith(
        string causal = "ForCausalLM", string tokenHead = "score", string? questionPrefix = null, bool causalBias = false) =>
    [
        new(causal, "CAUSAL_LM", (config, name) => new CausalModel(config, name, hasBias: causalBias)),
        new("ForSequenceClassification", "SEQ_CLS", static (config, name) => new LastTokenClassificationModel(config, name)),
        new("ForTokenClassification", "TOKEN_CLS", (config, name) => new LinearTokenClassificationModel(config, name, tokenHead)),
        new("ForQuestionAnswering", "QUESTION_ANS", (config, name) => new QuestionAnsweringModel(config, name, questionPrefix)),
        Features,
    ];
}
