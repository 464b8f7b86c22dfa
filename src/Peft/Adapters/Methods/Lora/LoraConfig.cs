using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters.Files;
using Peft.Adapters.Targets;

namespace Peft.Adapters.Methods.Lora;

/// <summary>
/// Low-rank adaptation (Hu et al. 2021): a layer's weight changes by scale · B · A, with A [rank, in] and B [out, rank].
/// Defaults are PEFT's.
/// </summary>
public sealed record LoraConfig : AdapterConfig
{
    /// <summary>PEFT's keys that this record doesn't interpret, with the value that means "unused". Anything else is a variant of its own.</summary>
    private static readonly Dictionary<string, string> s_variants = new(StringComparer.Ordinal)
    {
        ["alora_invocation_tokens"] = "null",
        ["arrow_config"] = "null",
        ["corda_config"] = "null",
        ["eva_config"] = "null",
        ["kasa_config"] = "null",
        ["layer_replication"] = "null",
        ["loftq_config"] = "{}",
        ["lora_ga_config"] = "null",
        ["megatron_config"] = "null",
        ["monteclora_config"] = "null",
        ["target_parameters"] = "null",
        ["trainable_token_indices"] = "null",
        ["use_bdlora"] = "null",
        ["use_dora"] = "false",
        ["use_qalora"] = "false",
        ["velora_config"] = "null",
    };

    /// <summary>PEFT's keys that say nothing unless one of the variants is used.</summary>
    private static readonly Dictionary<string, string> s_idle = new(StringComparer.Ordinal)
    {
        ["megatron_core"] = "\"megatron.core\"",
        ["qalora_group_size"] = "16",
    };

    /// <summary>PEFT's keys that this record doesn't interpret: those of variants, which only their unused values pass.</summary>
    public static IReadOnlyCollection<string> VariantKeys { get; } = [.. s_variants.Keys, .. s_idle.Keys];

    /// <inheritdoc/>
    public override string PeftType => "LORA";

    /// <summary>Rank of the change (<c>r</c>); 8.</summary>
    public int Rank { get; init; } = 8;

    /// <summary>The change is scaled by alpha / rank (<c>lora_alpha</c>); 8.</summary>
    public double Alpha { get; init; } = 8;

    /// <summary>Probability with which an input element of the change is dropped in training (<c>lora_dropout</c>); 0.</summary>
    public double Dropout { get; init; }

    /// <summary>Other ranks for some layers, by name, path ending or regular expression of whole name parts.</summary>
    public IReadOnlyDictionary<string, int> RankPattern { get; init; } = new Dictionary<string, int>();

    /// <summary>Other alphas for some layers, by name, path ending or regular expression of whole name parts.</summary>
    public IReadOnlyDictionary<string, double> AlphaPattern { get; init; } = new Dictionary<string, double>();

    /// <summary>Scales by alpha / √rank instead (<c>use_rslora</c>, Kalajdzievski 2023).</summary>
    public bool UseRslora { get; init; }

    /// <summary>Gives B a bias that is trained (<c>lora_bias</c>).</summary>
    public bool LoraBias { get; init; }

    /// <summary>How the factors start (<c>init_lora_weights</c>).</summary>
    public LoraInitialisation Initialisation { get; init; }

    /// <summary>Reads the keys of a file.</summary>
    internal static AdapterConfig Read(ConfigReader reader) => new LoraConfig
    {
        Bias = reader.Bias("lora_only"),
        FanInFanOut = reader.Flag("fan_in_fan_out"),
        Rank = reader.Integer("r", 8),
        Alpha = reader.Number("lora_alpha", 8),
        Dropout = reader.Number("lora_dropout", 0),
        RankPattern = reader.IntegersByName("rank_pattern"),
        AlphaPattern = reader.Numbers("alpha_pattern"),
        UseRslora = reader.Flag("use_rslora"),
        LoraBias = reader.Flag("lora_bias"),
        Initialisation = ReadInitialisation(reader),
        EnsureWeightTying = reader.Flag("ensure_weight_tying"),
    }.WithShared(reader);

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        RefuseRanks(RankPattern.Values.Prepend(Rank));

        if (Dropout is not (>= 0 and <= 1))
        {
            throw new PeftException("DropoutInvalid", FormattableString.Invariant($"The dropout probability has to lie between 0 and 1; {Dropout} was given.")) { Target = "lora_dropout" };
        }

        foreach (var (key, unused) in s_variants)
        {
            if (OtherKeys[key] is { } value && !IsEmpty(value) && !JsonNode.DeepEquals(value, JsonNode.Parse(unused)))
            {
                throw new NotSupportedByPeftException("LoraVariantNotSupported", $"LoRA with {key} = {value.ToJsonString()} is a variant that is not supported.") { Target = key };
            }
        }
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new LoraAdapter(name, this);

    /// <summary>Rank and scale of a layer, patterns applied.</summary>
    /// <param name="path">The module's path.</param>
    internal (int Rank, double Scale) ForLayer(string path)
    {
        var rank = TargetMatcher.Lookup(RankPattern, path, Rank);
        var alpha = TargetMatcher.Lookup(AlphaPattern, path, Alpha);
        return (rank, UseRslora ? alpha / Math.Sqrt(rank) : alpha / rank);
    }

    /// <inheritdoc/>
    protected override bool IsPeftKey(string key) => s_variants.ContainsKey(key) || s_idle.ContainsKey(key);

    /// <inheritdoc/>
    protected override void Write(JsonObject fields)
    {
        WriteTargets(fields);
        WriteLayers(fields);
        fields["bias"] = Bias switch { BiasTraining.All => "all", BiasTraining.Adapted => "lora_only", _ => "none" };
        fields["fan_in_fan_out"] = FanInFanOut;
        fields["r"] = Rank;
        fields["lora_alpha"] = Number(Alpha);
        fields["lora_dropout"] = Real(Dropout);
        fields["rank_pattern"] = Json(RankPattern);
        fields["alpha_pattern"] = Json(AlphaPattern);
        fields["use_rslora"] = UseRslora;
        fields["lora_bias"] = LoraBias;
        fields["init_lora_weights"] = Initialisation switch
        {
            LoraInitialisation.Gaussian => "gaussian",
            LoraInitialisation.Random => false,
            _ => true,
        };
        fields["ensure_weight_tying"] = EnsureWeightTying;
        foreach (var (key, unused) in s_variants.Concat(s_idle))
        {
            if (!fields.ContainsKey(key))
            {
                fields[key] = JsonNode.Parse(unused);
            }
        }
    }

    private static bool IsEmpty(JsonNode value) => value switch
    {
        JsonArray several => several.Count == 0,
        JsonObject entries => entries.Count == 0,
        _ => value.GetValueKind() == JsonValueKind.False,
    };

    private static LoraInitialisation ReadInitialisation(ConfigReader reader)
    {
        var node = reader.Node("init_lora_weights");
        return node?.GetValueKind() switch
        {
            null or JsonValueKind.Null or JsonValueKind.True => LoraInitialisation.Zero,
            JsonValueKind.False => LoraInitialisation.Random,
            JsonValueKind.String => LoraInitialisations.Parse(node.GetValue<string>()),
            _ => throw reader.Invalid("init_lora_weights", "should be true, false or the name of an initialisation"),
        };
    }
}
