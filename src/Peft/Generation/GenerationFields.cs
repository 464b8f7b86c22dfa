using System.Text.Json.Nodes;
using Peft.Models;

namespace Peft.Generation;

/// <summary>The names that transformers' <c>generate</c> and <c>generation_config.json</c> have for options. A new one is a line here.</summary>
internal static class GenerationFields
{
    private static readonly Dictionary<string, Func<GenerationOptions, Value, GenerationOptions>> s_fields = new(StringComparer.Ordinal)
    {
        ["max_new_tokens"] = static (options, value) => options with { MaxNewTokens = value.Whole },
        ["max_length"] = static (options, value) => options with { MaxLength = value.Whole },
        ["min_new_tokens"] = static (options, value) => options with { MinNewTokens = value.Whole },
        ["min_length"] = static (options, value) => options with { MinLength = value.Whole },
        ["do_sample"] = static (options, value) => options with { Sample = value.Flag },
        ["temperature"] = static (options, value) => options with { Temperature = value.Number },
        ["top_k"] = static (options, value) => options with { TopK = value.Whole },
        ["top_p"] = static (options, value) => options with { TopP = value.Number },
        ["min_p"] = static (options, value) => options with { MinP = value.Number },
        ["typical_p"] = static (options, value) => options with { TypicalP = value.Number },
        ["epsilon_cutoff"] = static (options, value) => options with { EpsilonCutoff = value.Number },
        ["eta_cutoff"] = static (options, value) => options with { EtaCutoff = value.Number },
        ["top_h"] = static (options, value) => options with { TopH = value.Number },
        ["repetition_penalty"] = static (options, value) => options with { RepetitionPenalty = value.Number },
        ["encoder_repetition_penalty"] = static (options, value) => options with { PromptRepetitionPenalty = value.Number },
        ["no_repeat_ngram_size"] = static (options, value) => options with { NoRepeatNgramSize = value.Whole },
        ["encoder_no_repeat_ngram_size"] = static (options, value) => options with { PromptNoRepeatNgramSize = value.Whole },
        ["bad_words_ids"] = static (options, value) => options with { BadWords = value.Sequences },
        ["suppress_tokens"] = static (options, value) => options with { SuppressedTokens = value.Ids },
        ["begin_suppress_tokens"] = static (options, value) => options with { SuppressedFirstTokens = value.Ids },
        ["sequence_bias"] = static (options, value) => options with { SequenceBias = value.Biases },
        ["renormalize_logits"] = static (options, value) => options with { RenormalizeLogits = value.Flag },
        ["remove_invalid_values"] = static (options, value) => options with { RemoveInvalidValues = value.Flag },
        ["use_cache"] = static (options, value) => options with { UseCache = value.Flag },
        ["stop_strings"] = static (options, value) => options with { StopStrings = value.Texts },
        ["eos_token_id"] = static (options, value) => options with { EndOfTextIds = value.Ids },
        ["pad_token_id"] = static (options, value) => options with { PadTokenId = value.Whole },
        ["decoder_start_token_id"] = static (options, value) => options with { DecoderStartId = value.Whole },
        ["forced_bos_token_id"] = static (options, value) => options with { ForcedBeginId = value.Whole },
        ["forced_eos_token_id"] = static (options, value) => options with { ForcedEndIds = value.Ids },
        ["exponential_decay_length_penalty"] = static (options, value) => options with { LengthDecay = value.Decay },
        ["num_beams"] = static (options, value) => options with { BeamCount = value.Whole },
        ["length_penalty"] = static (options, value) => options with { LengthPenalty = value.Number },
        ["early_stopping"] = static (options, value) => options with { EarlyStopping = value.Stopping },
        ["num_return_sequences"] = static (options, value) => options with { ReturnCount = value.Whole },
        ["task_ids"] = static (options, value) => options with { TaskId = value.Whole },
        ["seed"] = static (options, value) => options with { Seed = (ulong)value.Whole },
    };

    /// <summary>Names that say how something is computed or put out, or where the file comes from, and change no text.</summary>
    private static readonly HashSet<string> s_idle = new(StringComparer.Ordinal)
    {
        "bos_token_id", "transformers_version", "_from_model_config", "output_scores", "output_logits", "output_attentions", "output_hidden_states", "return_dict_in_generate",
        "cache_implementation", "cache_config", "max_cache_len", "disable_compile", "compile_config", "prefill_chunk_size", "is_assistant", "num_assistant_tokens",
        "num_assistant_tokens_schedule", "assistant_confidence_threshold", "max_matching_ngram_size", "assistant_lookbehind", "target_lookbehind", "trust_remote_code",
    };

    /// <summary>Names of generate's that ask for something which is not supported, and may stand in a model's own configuration.</summary>
    private static readonly string[] s_unsupported =
    [
        "max_time", "guidance_scale", "watermarking_config", "token_healing", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp", "speculation_type",
        "low_memory", "penalty_alpha", "dola_layers", "diversity_penalty", "num_beam_groups", "constraints", "force_words_ids",
    ];

    /// <summary>Names that are options of a run, and no part of a configuration.</summary>
    private static readonly string[] s_ofRun = ["task_ids", "seed", "use_cache"];

    /// <summary>Parts of a configuration that are about the half which writes.</summary>
    private static readonly string[] s_writers = ["decoder", "generator", "text_config"];

    /// <summary>Names that have an effect.</summary>
    public static IReadOnlyCollection<string> Names => s_fields.Keys;

    /// <summary>Reads values over options; null leaves an option as it is.</summary>
    /// <param name="options">What the values are put over.</param>
    /// <param name="values">Values by name.</param>
    /// <param name="unsupported">Takes the names that ask for something and are not supported.</param>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: a value of another kind.</exception>
    public static GenerationOptions Read(GenerationOptions options, JsonObject values, ICollection<string> unsupported)
    {
        var config = new ModelConfig(values);
        foreach (var (name, node) in values)
        {
            if (node is null || s_idle.Contains(name))
            {
                continue;
            }

            if (s_fields.TryGetValue(name, out var field))
            {
                options = field(options, new Value(config, name, node));
            }
            else if (!IsUnused(name, node))
            {
                unsupported.Add(name);
            }
        }

        return options;
    }

    /// <summary>The values that a config.json has of these names, and where it has none those of its text model, as transformers reads the configuration of a model without generation_config.json.</summary>
    /// <param name="document">The model's config.json.</param>
    public static JsonObject OfConfiguration(JsonObject document)
    {
        var values = new JsonObject();
        var parts = new[] { document, s_writers.Select(name => document[name]).OfType<JsonObject>().FirstOrDefault() };
        foreach (var name in s_fields.Keys.Except(s_ofRun).Concat(s_unsupported))
        {
            if (parts.Select(part => part?[name]).FirstOrDefault(static value => value is not null) is { } value)
            {
                values[name] = value.DeepClone();
            }
        }

        return values;
    }

    /// <summary>Whether a value asks for nothing.</summary>
    private static bool IsUnused(string name, JsonNode node) => node switch
    {
        JsonArray { Count: 0 } or JsonObject { Count: 0 } => true,
        JsonValue value when value.TryGetValue<bool>(out var flag) => !flag,
        JsonValue value when ModelConfig.NumberOf(value) is { } number => number == (name is "guidance_scale" or "num_beam_groups" ? 1 : 0),
        _ => false,
    };

    /// <summary>A value as what its option holds.</summary>
    private sealed record Value(ModelConfig Config, string Name, JsonNode Node)
    {
        public int Whole => (int)Math.Clamp(Config.Integer(Name)!.Value, int.MinValue, int.MaxValue);

        public double Number => Config.Number(Name)!.Value;

        public bool Flag => Config.Boolean(Name)!.Value;

        public IReadOnlyList<int> Ids => Config.TokenIds(Name);

        public IReadOnlyList<string> Texts => Node is JsonValue value && value.TryGetValue<string>(out var text) ? [text] : Config.Texts(Name) ?? throw Invalid("a text or a list of texts");

        public IReadOnlyList<IReadOnlyList<int>> Sequences => [.. Items(Node).Select(Numbers)];

        public IReadOnlyList<(IReadOnlyList<int> Sequence, double Bias)> Biases => [.. Items(Node).Select(entry => Items(entry) is [var ids, JsonValue bias]
            ? (Numbers(ids), (double)bias)
            : throw Invalid("a list of pairs, each of a list of ids and a number"))];

        public (int Start, double Factor) Decay => Items(Node) is [JsonValue start, JsonValue factor] ? ((int)(double)start, (double)factor) : throw Invalid("a number of tokens and a factor");

        public EarlyStopping Stopping => Node is JsonValue value && value.TryGetValue<string>(out var text)
            ? text == "never" ? EarlyStopping.Never : throw Invalid("true, false or never")
            : Flag ? EarlyStopping.True : EarlyStopping.False;

        private IReadOnlyList<int> Numbers(JsonNode? node) =>
            [.. Items(node).Select(id => ModelConfig.NumberOf(id) is { } number && number == Math.Floor(number) ? (int)number : throw Invalid("lists of token ids"))];

        private JsonArray Items(JsonNode? node) => node as JsonArray ?? throw Invalid("a list");

        private PeftException Invalid(string what) => new("GenerationOptionInvalid", $"{Name} must be {what}.")
        {
            Target = Name,
            RecommendedAction = $"Give {Name} another value, or leave it out.",
        };
    }
}
