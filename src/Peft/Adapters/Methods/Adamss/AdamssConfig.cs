using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models.Layers;

namespace Peft.Adapters.Methods.Adamss;

/// <summary>
/// AdaMSS (2025): a layer's outputs are put into clusters by what its weight's leading singular vectors say of them, and each cluster has a low-rank change of its own,
/// which reads the inputs through those vectors. In training those that matter least may stop learning. Defaults are PEFT's.
/// </summary>
[ConfigWithout("exclude_modules")]
public sealed record AdamssConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "ADAMSS";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.LoraWith(("vit", ["query", "value"]));

    /// <summary>Singular vectors of the weight through which inputs are read, at most as many as the smaller of its sides. With as many as outputs, clusters mean nothing.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 100;

    /// <summary>Clusters of a layer's outputs, at most one for each.</summary>
    [ConfigField("num_subspaces", Parameter = "SubspaceCount", Minimum = 1, ErrorId = "RankInvalid")]
    public int SubspaceCount { get; init; } = 5;

    /// <summary>Rank of each cluster's change.</summary>
    [ConfigField("subspace_rank", Minimum = 1, ErrorId = "RankInvalid")]
    public int SubspaceRank { get; init; } = 1;

    /// <summary><c>orthogonal</c> starts without a change; <c>false</c> starts at random, for tests.</summary>
    [ConfigField("init_weights", Parameter = "Initialization", Choices = ["orthogonal", "false"], ErrorId = "InitialisationUnknown")]
    public string Initialisation { get; init; } = "orthogonal";

    /// <summary>Lets the clusters that matter least stop learning in the course of a training.</summary>
    [ConfigField("use_asa", Parameter = "Allocate")]
    public bool Allocates { get; init; }

    /// <summary>Clusters of all layers together that go on learning in the end; one less does, as with PEFT.</summary>
    [ConfigField("asa_target_subspaces", Parameter = "TargetSubspaces")]
    public int TargetSubspaces { get; init; } = 50;

    /// <summary>Steps before any of them stops.</summary>
    [ConfigField("init_warmup", Parameter = "InitialWarmup")]
    public int InitialWarmup { get; init; } = 50;

    /// <summary>The step at which the last of them stops.</summary>
    [ConfigField("final_warmup", Parameter = "FinalWarmup")]
    public int FinalWarmup { get; init; } = 1000;

    /// <summary>Steps from one choice to the next.</summary>
    [ConfigField("mask_interval", Parameter = "ChoiceInterval")]
    public int ChoiceInterval { get; init; } = 100;

    /// <summary>Share of the past in the mean of a weight's importance.</summary>
    [ConfigField("asa_importance_beta", Parameter = "ImportanceBeta", IsReal = true)]
    public double ImportanceBeta { get; init; } = 0.85;

    /// <summary>Share of the past in the mean of how much that importance varies.</summary>
    [ConfigField("asa_uncertainty_beta", Parameter = "UncertaintyBeta", IsReal = true)]
    public double UncertaintyBeta { get; init; } = 0.85;

    /// <summary>How fast they become fewer at first: 1 evenly, more the faster.</summary>
    [ConfigField("asa_schedule_exponent", Parameter = "ScheduleExponent", IsReal = true)]
    public double ScheduleExponent { get; init; } = 3;

    /// <summary>Gives each cluster as many ranks as it has singular values above the threshold, at most those asked for.</summary>
    [ConfigField("use_dynamic_rank", Parameter = "DynamicRank")]
    public bool UsesDynamicRank { get; init; }

    /// <summary>The threshold, as a share of the largest singular value.</summary>
    [ConfigField("svd_threshold", Parameter = "Threshold", IsReal = true)]
    public double Threshold { get; init; } = 0.1;

    /// <summary>Seed of the decomposition. Clusters aren't saved: they are found again from the weight.</summary>
    [ConfigField("random_seed", Minimum = 0)]
    public int RandomSeed { get; init; }

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (!Allocates)
        {
            return;
        }

        if (ChoiceInterval <= 0 || TargetSubspaces <= 0 || ScheduleExponent <= 0)
        {
            throw Contradiction(FormattableString.Invariant($"With use_asa mask_interval ({ChoiceInterval}), asa_target_subspaces ({TargetSubspaces}) and asa_schedule_exponent ({ScheduleExponent}) have to be above 0."));
        }

        if (InitialWarmup >= FinalWarmup)
        {
            throw Contradiction($"init_warmup ({InitialWarmup}) has to be below final_warmup ({FinalWarmup}): between them clusters stop learning.");
        }
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new AdamssAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear { IsTransposed: false } ? new AdamssLayer(layer, this) : throw KindRefused(layer);
}
