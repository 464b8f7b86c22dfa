using System.Text.Json.Nodes;
using Peft.Models.Architectures;
using Peft.Models.Gguf;

namespace Peft.Models;

/// <summary>The families of models there are. One line a family.</summary>
public static partial class ArchitectureRegistry
{
    /// <summary>The families, by their <c>model_type</c>.</summary>
    public static IReadOnlyList<Family> Families { get; } =
    [
        .. Encoders,
        .. LlamaFamilies.Rows,
        .. Gpt2.Rows,
        GptNeo.Row,
        .. GptJ.Rows,
        GptNeoX.Row,
        Opt.Row,
        Bloom.Row,
        Falcon.Row,
        Mpt.Row,
        Starcoder2.Row,
        StableLm.Row,
        Cohere.Row,
        Phi.Row,
        new("mixtral", "Mixtral", static config => new LlamaModel(config, Mixture.Mixtral)) { Gguf = GgufMixtureMaps.Mixtral, Keys = Mixture.MixtralKeys, Defaults = Mixture.MixtralDefaults },
        new("qwen2_moe", "Qwen2Moe", static config => new LlamaModel(config, Mixture.Qwen2)) { Gguf = GgufMixtureMaps.Qwen2Moe, Keys = Mixture.QwenKeys, Defaults = Mixture.Qwen2Defaults },
        new("qwen3_moe", "Qwen3Moe", static config => new LlamaModel(config, Mixture.Qwen3)) { Gguf = GgufMixtureMaps.Qwen3Moe, Keys = Mixture.QwenKeys, Defaults = Mixture.Qwen3Defaults },
        new("gpt_oss", "GptOss", static config => new LlamaModel(config, GptOss.Traits)) { Gguf = GgufMixtureMaps.GptOss, Defaults = GptOss.Defaults },
        .. Gemma4Config.Rows,
        Family.Around("mistral3", "Mistral3", textType: "mistral", Family.LanguageModelFirst),
        new("deepseek_v3", "DeepseekV3", static config => new LlamaModel(config, DeepseekV3.Traits)) { Gguf = GgufMixtureMaps.Deepseek, Keys = Mixture.QwenKeys, Defaults = DeepseekV3.Defaults },
        new("glm4_moe", "Glm4Moe", static config => new LlamaModel(config, DeepseekV3.Glm(config))) { Gguf = GgufMixtureMaps.Glm4Moe, Keys = Mixture.QwenKeys, Defaults = DeepseekV3.GlmDefaults },
        new("qwen3_next", "Qwen3Next", static config => new LlamaModel(config, Qwen3Next.Traits)) { Gguf = GgufHybridMaps.Qwen3Next, Keys = Mixture.QwenKeys, Defaults = Qwen3Next.Defaults },
        new("qwen3_5_text", "Qwen3_5", static config => new LlamaModel(config, Qwen35.Dense)) { Gguf = GgufHybridMaps.Qwen35, Defaults = Qwen35.Defaults },
        Family.Around("qwen3_5", "Qwen3_5", textType: "qwen3_5_text") with { Defaults = Qwen35.WrapperDefaults },
        Family.Around("qwen3_5_moe", "Qwen3_5Moe", textType: "qwen3_5_moe_text") with { Defaults = Qwen35.WrapperDefaults },
        new("qwen3_5_moe_text", "Qwen3_5Moe", static config => new LlamaModel(config, Qwen35.Sparse)) { Gguf = GgufHybridMaps.Qwen35Moe, Keys = Mixture.QwenKeys, Defaults = Qwen35.SparseDefaults },
        new("granitemoehybrid", "GraniteMoeHybrid", static config => new GraniteHybridModel(config)) { Gguf = GgufHybridMaps.GraniteHybrid, Keys = GraniteHybridModel.Keys, Defaults = GraniteHybridModel.Defaults },
        new("lfm2", "Lfm2", static config => new LlamaModel(config, Lfm2.Dense(config))) { Gguf = GgufMixtureMaps.Lfm2, OtherNames = Lfm2.OtherNames, Defaults = Lfm2.Defaults },
        new("lfm2_moe", "Lfm2Moe", static config => new LlamaModel(config, Lfm2.Sparse(config))) { Gguf = GgufMixtureMaps.Lfm2Moe, OtherNames = Lfm2.OtherNames, Keys = Lfm2.Keys, Defaults = Lfm2.SparseDefaults },
    ];

    /// <summary>Names of the classes that <see cref="Create"/> knows.</summary>
    public static IReadOnlyCollection<string> Supported =>
        [.. Families.SelectMany(static family => family.Heads.Select(head => family.Stem + head.Suffix)).Distinct(StringComparer.Ordinal)];

    /// <summary>The family of a <c>model_type</c>, or null.</summary>
    public static Family? Find(string modelType) => Families.FirstOrDefault(family => family.ModelType == modelType);

    /// <summary>Makes a model's structure, without weights.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="task">PEFT's task type (<c>CAUSAL_LM</c>, <c>SEQ_CLS</c>) to choose the head by; null for what the configuration names.</param>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c> or <c>ModelConfigIncomplete</c>.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>ArchitectureNotSupported</c>.</exception>
    public static PretrainedModel Create(ModelConfig config, string? task = null)
    {
        ArgumentNullException.ThrowIfNull(config);
        var name = task is null ? config.Architecture : null;

        // Without a model type the class name alone tells the family.
        var families = Families.Where(family => config.ModelType.Length == 0 || family.ModelType == config.ModelType);
        foreach (var family in families)
        {
            var head = name is not null ? family.Heads.FirstOrDefault(head => family.Stem + head.Suffix == name)
                : task is not null ? family.Heads.FirstOrDefault(head => head.Task == task)
                : config.ModelType.Length > 0 ? family.Heads[0] : null;
            if (head is not null)
            {
                return head.Make(config.For(family), family.Stem + head.Suffix);
            }
        }

        throw new NotSupportedByPeftException(
            "ArchitectureNotSupported",
            $"The architecture '{config.Architecture ?? config.ModelType}' (model_type '{config.ModelType}'{(task is null ? "" : $", task {task}")}) is not supported.{(config.Document.ContainsKey("auto_map") ? " Code that comes with it (auto_map) is never run." : "")}")
        {
            Target = config.ModelType,
            RecommendedAction = Families.FirstOrDefault(family => family.ModelType == config.ModelType) is { } known
                ? $"Of the type '{known.ModelType}' there are: {string.Join(", ", known.Heads.Select(head => known.Stem + head.Suffix).Distinct())}. CONTRIBUTING.md says how to add a head."
                : $"{(Nearest(config.ModelType) is { } near ? $"The family whose name is nearest is '{near.ModelType}'. " : "")}Supported types are: {string.Join(", ", Families.Select(static family => family.ModelType).Distinct().Order(StringComparer.Ordinal))}. CONTRIBUTING.md says how to add a family: most are a row or one file.",
        };
    }

    /// <summary>The family whose <c>model_type</c> has the longest beginning in common with another, of at least three letters, one that differs in its last letter alone first; null where none has.</summary>
    internal static Family? Nearest(string modelType)
    {
        const int LeastInCommon = 3;
        var wanted = Letters(modelType);
        return Families
            .Select(family => (Family: family, Name: Letters(family.ModelType)))
            .Select(entry => (entry.Family, Common: entry.Name.Zip(wanted).TakeWhile(static pair => pair.First == pair.Second).Count(), entry.Name.Length))
            .Where(static entry => entry.Common >= LeastInCommon)
            .OrderByDescending(static entry => entry.Common)
            .ThenByDescending(entry => entry.Length == wanted.Length && entry.Common == wanted.Length - 1)
            .ThenBy(static entry => entry.Length)
            .FirstOrDefault().Family;

        static string Letters(string name) => string.Concat(name.Where(char.IsLetterOrDigit)).ToUpperInvariant();
    }

    /// <summary>Keys in which a family differs from the defaults of its backbone; transformers unties the output layer in most.</summary>
    internal static JsonObject Defaults(string json)
    {
        var defaults = Tied(json);
        defaults.TryAdd("tie_word_embeddings", false);
        return defaults;
    }

    private static JsonObject Tied(string json) => (JsonObject)JsonNode.Parse(json)!;
}
