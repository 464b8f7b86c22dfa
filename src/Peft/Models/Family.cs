using System.Text.Json.Nodes;
using Peft.Models.Heads;

namespace Peft.Models;

/// <summary>A family of models: a row of <see cref="ArchitectureRegistry"/>. Families that differ by flags share a backbone.</summary>
/// <param name="ModelType"><c>model_type</c> in configurations, such as <c>mistral</c>.</param>
/// <param name="Stem">Begins the names of transformers' classes, such as <c>Mistral</c> in <c>MistralAttention</c>.</param>
/// <param name="Backbone">Makes the structure between token ids and the last hidden states.</param>
public sealed record Family(string ModelType, string Stem, Func<ModelConfig, Backbone> Backbone)
{
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
    public static IReadOnlyList<HeadRow> DecoderWith(string causal = "ForCausalLM", string tokenHead = "score", string? questionPrefix = null) =>
    [
        new(causal, "CAUSAL_LM", static (config, name) => new CausalModel(config, name)),
        new("ForSequenceClassification", "SEQ_CLS", static (config, name) => new LastTokenClassificationModel(config, name)),
        new("ForTokenClassification", "TOKEN_CLS", (config, name) => new LinearTokenClassificationModel(config, name, tokenHead)),
        new("ForQuestionAnswering", "QUESTION_ANS", (config, name) => new QuestionAnsweringModel(config, name, questionPrefix)),
        Features,
    ];
}
