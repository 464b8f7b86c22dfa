using System.Text.Json.Nodes;
using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models.Layers;

namespace Peft.Adapters.Methods.AdaLora;

/// <summary>
/// AdaLoRA (Zhang et al. 2023): a layer's change is B · diag(E) · A, and in training the budget of ranks moves to the layers where it matters most;
/// the others' entries of E become zero and are left out of the file. Defaults are PEFT's.
/// </summary>
[ConfigVariant("alora_invocation_tokens")]
[ConfigVariant("alpha_pattern", "{}")]
[ConfigVariant("arrow_config")]
[ConfigVariant("corda_config")]
[ConfigVariant("ensure_weight_tying", "false")]
[ConfigVariant("eva_config")]
[ConfigVariant("kasa_config")]
[ConfigVariant("layer_replication")]
[ConfigVariant("loftq_config", "{}")]
[ConfigVariant("lora_bias", "false")]
[ConfigVariant("lora_ga_config")]
[ConfigVariant("megatron_config")]
[ConfigVariant("megatron_core", "\"megatron.core\"", IsIdle = true)]
[ConfigVariant("monteclora_config")]
[ConfigVariant("qalora_group_size", "16", IsIdle = true)]
[ConfigVariant("r", "8", IsIdle = true)]
[ConfigVariant("target_parameters")]
[ConfigVariant("trainable_token_indices")]
[ConfigVariant("use_bdlora")]
[ConfigVariant("use_dora", "false")]
[ConfigVariant("use_qalora", "false")]
[ConfigVariant("use_rslora", "false")]
[ConfigVariant("velora_config")]
public sealed record AdaLoraConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "ADALORA";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.AdaLora;

    /// <summary>Rank that a layer has on average when the budget is spent.</summary>
    [ConfigField("target_r", Parameter = "TargetRank", Minimum = 1, ErrorId = "RankInvalid")]
    public int TargetRank { get; init; } = 8;

    /// <summary>Rank with which every layer starts.</summary>
    [ConfigField("init_r", Parameter = "InitialRank", Minimum = 1, ErrorId = "RankInvalid")]
    public int InitialRank { get; init; } = 12;

    /// <summary>Steps before the budget begins to fall.</summary>
    [ConfigField("tinit", Parameter = "WarmupSteps", Minimum = 0)]
    public int WarmupSteps { get; init; }

    /// <summary>Steps at the end in which the budget stays as it is.</summary>
    [ConfigField("tfinal", Parameter = "FinalSteps", Minimum = 0)]
    public int FinalSteps { get; init; }

    /// <summary>Steps from one pruning to the next.</summary>
    [ConfigField("deltaT", Parameter = "PruningInterval", Minimum = 1)]
    public int PruningInterval { get; init; } = 1;

    /// <summary>Share of the past in the mean of a weight's importance.</summary>
    [ConfigField("beta1", Minimum = 0, Maximum = 1)]
    public double Beta1 { get; init; } = 0.85;

    /// <summary>Share of the past in the mean of how much that importance varies.</summary>
    [ConfigField("beta2", Minimum = 0, Maximum = 1)]
    public double Beta2 { get; init; } = 0.85;

    /// <summary>Weight of the term in the loss that keeps A and B orthogonal.</summary>
    [ConfigField("orth_reg_weight", Parameter = "OrthogonalityWeight", Minimum = 0)]
    public double OrthogonalityWeight { get; init; } = 0.5;

    /// <summary>Steps of the whole training, by which the budget falls; without it those of the training.</summary>
    [ConfigField("total_step", Parameter = "TotalSteps", Minimum = 1)]
    public int? TotalSteps { get; init; }

    /// <summary>Which of a layer's first ranks are left, by the name of its E; written by training.</summary>
    [ConfigField("rank_pattern")]
    public JsonNode? RankPattern { get; init; }

    /// <summary>Strength of the change: it is multiplied by alpha / initial rank.</summary>
    [ConfigField("lora_alpha", Aliases = ["LoraAlpha"])]
    public double Alpha { get; init; } = 8;

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [ConfigField("lora_dropout", Aliases = ["LoraDropout"], Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>lora_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "lora_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_lora_weights", Parameter = "StartAtZero")]
    public bool StartAtZero { get; init; } = true;

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (TotalSteps is { } total)
        {
            RefuseSchedule(total);
        }

        foreach (var (key, mask) in RankPattern as JsonObject ?? [])
        {
            if (mask is not JsonArray { Count: > 0 } kept || kept.Count != InitialRank || kept.Any(static entry => entry?.GetValueKind() is not (System.Text.Json.JsonValueKind.True or System.Text.Json.JsonValueKind.False)))
            {
                throw Contradiction($"rank_pattern of '{key}' has to say true or false for each of the {InitialRank} ranks of init_r.");
            }
        }
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new AdaLoraAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear ? new AdaLoraLayer(layer, this) : throw KindRefused(layer);

    /// <summary>Refuses a schedule whose phases leave no step to prune in.</summary>
    /// <param name="total">Steps of the whole training.</param>
    internal void RefuseSchedule(int total)
    {
        if (WarmupSteps >= total - FinalSteps)
        {
            throw new PeftException("AdaLoraScheduleInvalid", $"tinit ({WarmupSteps}) and tfinal ({FinalSteps}) leave no step of {total} in which the budget could fall.")
            {
                Target = "total_step",
                RecommendedAction = "Lower tinit or tfinal, or train for more steps.",
            };
        }
    }

    /// <summary>Which ranks of a layer are left, by their first places; null for all.</summary>
    /// <param name="path">The module's path.</param>
    internal bool[]? Kept(string path) => (RankPattern as JsonObject)?[KeyOf(path)] is JsonArray kept ? [.. kept.Select(static entry => (bool)entry!)] : null;

    /// <summary>A layer's key in the rank pattern.</summary>
    internal static string KeyOf(string path) => $"{path}.lora_E";
}
