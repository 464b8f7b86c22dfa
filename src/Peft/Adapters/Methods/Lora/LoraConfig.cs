using System.Text.Json.Nodes;
using Peft.Adapters.Configuration;
using Peft.Adapters.Methods.Lora.DataStarts;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Tensors;

namespace Peft.Adapters.Methods.Lora;

/// <summary>
/// Low-rank adaptation (Hu et al. 2021): a layer's weight changes by scale · B · A, with A [rank, in] and B [out, rank].
/// Defaults are PEFT's.
/// </summary>
[ConfigVariant("enable_lora", IsFormer = true)]
[ConfigVariant("megatron_config")]
[ConfigVariant("megatron_core", "\"megatron.core\"", IsIdle = true)]
public sealed record LoraConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "LORA";

    /// <summary>Rank of the change: the inner size of its two factors. Trainable parameters grow with it.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 8;

    /// <summary>Strength of the change: it is multiplied by alpha / rank.</summary>
    [ConfigField("lora_alpha", Aliases = ["LoraAlpha"])]
    public double Alpha { get; init; } = 8;

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [ConfigField("lora_dropout", Aliases = ["LoraDropout"], Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>lora_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "lora_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Gives the second factor a bias that is trained.</summary>
    [ConfigField("lora_bias")]
    public bool LoraBias { get; init; }

    /// <summary>Trains the length of each output's weights apart from their direction (DoRA, Liu et al. 2024), which often reaches more with a low rank and is slower.</summary>
    [ConfigField("use_dora")]
    public bool UseDora { get; init; }

    /// <summary>Multiplies the change by alpha / √rank instead (rank-stabilised LoRA, Kalajdzievski 2023), which keeps high ranks trainable.</summary>
    [ConfigField("use_rslora", Parameter = "RankStabilized", Aliases = ["UseRslora"])]
    public bool UseRslora { get; init; }

    /// <summary>Other ranks for some modules: a table of name, path ending or regular expression of whole name parts to rank; the first that matches counts.</summary>
    [ConfigField("rank_pattern", Minimum = 1, ErrorId = "RankInvalid")]
    public IReadOnlyDictionary<string, int> RankPattern { get; init; } = new Dictionary<string, int>();

    /// <summary>Other alphas for some modules: a table of name, path ending or regular expression of whole name parts to alpha; the first that matches counts.</summary>
    [ConfigField("alpha_pattern")]
    public IReadOnlyDictionary<string, double> AlphaPattern { get; init; } = new Dictionary<string, double>();

    /// <summary>
    /// How the factors start: <c>true</c> leaves the base's output as it is at first, <c>gaussian</c> too but draws from a normal distribution, <c>false</c> draws both factors (for tests).
    /// Data decide three: <c>eva</c> takes the directions in which the inputs vary most, <c>corda</c> the weight's as the data uses them, <c>lora_ga</c> those of the loss's gradient.
    /// <c>pissa</c> (or <c>pissa_niter_16</c>, faster on large weights) and <c>olora</c> take the leading part out of the base's weight and train that;
    /// the base has its own weight back when the adapter is removed. <c>loftq</c> quantises the base as well and starts from what that loses; <c>mica</c> trains A alone
    /// beside the directions that the weight uses least; <c>orthogonal</c> draws both factors so that they cancel.
    /// </summary>
    [ConfigField("init_lora_weights", Parameter = "Initialization", IsSpelling = true)]
    public string Initialisation { get; init => field = value.ToLowerInvariant(); } = LoraInitialisation.Zero;

    /// <summary>The ways to start that have a name; <c>pissa_niter_N</c> is one more.</summary>
    public static IReadOnlyCollection<string> Initialisations => LoraInitialisation.Names;

    /// <summary>
    /// Parameters to adapt whose module is no linear layer, by name or ending of the path: <c>mlp.experts.gate_up_proj</c> and <c>mlp.experts.down_proj</c>
    /// give each expert of a mixture factors of its own.
    /// </summary>
    [ConfigField("target_parameters", Parameter = "TargetParameter")]
    public override IReadOnlyList<string>? TargetParameters { get; init; }

    /// <summary>
    /// Tokens from whose last place in a row on the change acts (activated LoRA, Greenewald et al. 2025); what stands before them, and rows without them,
    /// are the base's own. Without it the change acts everywhere.
    /// </summary>
    [ConfigField("alora_invocation_tokens", Parameter = "InvocationToken", Minimum = 0)]
    public IReadOnlyList<int>? InvocationTokens { get; init; }

    /// <summary>How the start <c>loftq</c> quantises: a table of loftq_bits (4 or 8; 4 without it) and loftq_iter (1 without it).</summary>
    [ConfigField("loftq_config")]
    public JsonNode? LoftqConfig { get; init; } = new JsonObject();

    /// <summary>Settings of the start <c>eva</c>: a table of rho (2; 1 keeps every layer's rank), tau (0.99), whiten, use_label_mask and adjust_scaling_factors.</summary>
    [ConfigField("eva_config")]
    public EvaSettings? Eva { get; init; }

    /// <summary>Settings of the start <c>corda</c>: a table of corda_method (<c>ipm</c> to learn what the data is about, <c>kpm</c> to keep it).</summary>
    [ConfigField("corda_config")]
    public CordaSettings? Corda { get; init; }

    /// <summary>Settings of the start <c>lora_ga</c>: a table of direction (<c>ArB2r</c>, <c>A2rBr</c>, <c>ArBr</c>, <c>random</c>), scale (<c>stable</c>, <c>weight_svd</c>, <c>gd_scale</c>, <c>unit</c>) and stable_gamma (16).</summary>
    [ConfigField("lora_ga_config")]
    public LoraGaSettings? LoraGa { get; init; }

    /// <summary>What data decided of the start; null before they were asked.</summary>
    internal DataStart? Start { get; init; }

    /// <summary>Trains singular values between the factors, in place of the weight's smallest, which the base lacks until the adapter is removed (KaSA, Wang et al. 2024): a table of beta and gamma, for scripts that add its regularisers.</summary>
    [ConfigField("kasa_config", Parameter = "Kasa")]
    public KasaSettings? Kasa { get; init; }

    /// <summary>Makes one factor block-diagonal, so that several devices can each compute a block: a table of nblocks, and of the modules whose first (target_modules_bd_a) or second (target_modules_bd_b) factor it is.</summary>
    [ConfigField("use_bdlora", Parameter = "BlockDiagonal")]
    public BlockDiagonalSettings? BlockDiagonal { get; init; }

    /// <summary>
    /// Makes an adapter that chooses token by token among the LoRA adapters beside it (Arrow, Ostapenko et al. 2024), with nothing of its own to train: a table of top_k (3),
    /// router_temperature (1), task_adapter_names, use_gks with gks_adapter_names, and rng_seed.
    /// </summary>
    [ConfigField("arrow_config", Parameter = "Arrow")]
    public ArrowSettings? Arrow { get; init; }

    /// <summary>Lets the first factor see sums of groups of inputs (QALoRA, Xu et al. 2023). PEFT does so over GPTQ weights alone; here any linear layer can have it.</summary>
    [ConfigField("use_qalora", Parameter = "UseQaLora")]
    public bool UseQaLora { get; init; }

    /// <summary>Inputs of such a group; divides the inputs of every target.</summary>
    [ConfigField("qalora_group_size", Parameter = "QaLoraGroupSize", Minimum = 1)]
    public int QaLoraGroupSize { get; init; } = 16;

    /// <summary>Lets the first factor learn from inputs that are summed up by groups (VeLoRA, Miles et al. 2024): a table of num_groups (64), scale (1) and init_type (<c>batch_average</c>, <c>batch_average_once</c> or <c>random</c>).</summary>
    [ConfigField("velora_config", Parameter = "Velora")]
    public VeloraSettings? Velora { get; init; }

    /// <summary>
    /// Lets training draw the first factor around what it learns, with a spread and shares that are learnt too (MonteCLoRA, Sengupta et al. 2024): a table of num_samples (8), use_entropy,
    /// dirichlet_prior (0.1), sample_scaler (1e-4), kl_loss_weight (1e-5) and buffer_size (150, which says nothing here).
    /// </summary>
    [ConfigField("monteclora_config", Parameter = "MonteClora")]
    public MonteCloraSettings? MonteClora { get; init; }

    /// <summary>
    /// Blocks that stand in the model's stack, by ranges of the first block and the block behind the last: <c>[[0,4],[2,5]]</c> makes seven of five.
    /// Those that stand there again share the base's weights and have changes of their own. The model is what it was when the adapter is removed.
    /// </summary>
    [ConfigField("layer_replication")]
    public override IReadOnlyList<IReadOnlyList<int>>? LayerReplication { get; init; }

    /// <summary>
    /// Tokens whose vectors are trained beside the adapter, without training all embeddings: ids in the model's token embeddings, or a table of
    /// module to ids. An output layer that shares the embeddings' weight shares the vectors.
    /// </summary>
    [ConfigField("trainable_token_indices", Parameter = "TrainableToken", Minimum = 0)]
    public TokenIndices? TrainableTokens { get; init; }

    /// <inheritdoc/>
    internal override bool SavesEmbeddings => TrainableTokens is null;

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Lets layers that share their weights share what is trained of them as well: an embedding and an output layer get one change, with the gradients of both, which a file holds for each.</summary>
    [ConfigField("ensure_weight_tying")]
    public override bool EnsureWeightTying { get; init; }

    /// <inheritdoc/>
    protected override string VariantErrorId => "LoraVariantNotSupported";

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        var start = LoraInitialisation.Of(Initialisation);
        Eva?.Validate();
        Corda?.Validate();
        LoraGa?.Validate();
        Arrow?.Validate();
        Velora?.Validate();
        MonteClora?.Validate();
        if (UseDora && LoraBias)
        {
            throw Contradiction("lora_bias can't be used with use_dora.");
        }

        string[] variants = [.. Variants.Where(static variant => variant.IsUsed).Select(static variant => variant.Name)];
        if (variants.Length > 1)
        {
            throw Contradiction($"{string.Join(" and ", variants)} can't be used together.");
        }

        if (start is { NeedsData: true, LeavesResidual: true } && (variants.Length > 0 || LoraBias || LayerReplication is { Count: > 0 }))
        {
            throw Contradiction($"The start '{Initialisation}' is for plain LoRA: it can't be used with a variant, lora_bias or layer_replication.");
        }
    }

    /// <inheritdoc/>
    internal override AdapterConfig ForNew(PretrainedModel model) => ExpertTargets.Convert(this, model);

    /// <inheritdoc/>
    internal override (AdapterConfig Config, TensorStore Tensors) ForFile(TensorStore file, PretrainedModel model) => LosesItsStart && !file.Names.Any(static name => name.EndsWith(LoraLayer.FirstA, StringComparison.Ordinal))
        ? throw new PeftException("AdapterStartMissing", $"'{file.Path}' is of an adapter whose start ({Initialisation}) was taken out of the base's weights, and doesn't hold that start: on this base it would compute something else.")
        {
            Target = file.Path,
            RecommendedAction = "Save it as plain LoRA where it was trained: path_initial_model_for_weight_conversion in PEFT.",
        }
        : ExpertFactors.Convert(this, file, model);

    /// <summary>Whether the base lacks a part that nothing but the adapter knows, so that its file for other programs has to hold that part too.</summary>
    internal bool LosesItsStart => LoraInitialisation.Of(Initialisation) is { NeedsData: true, LeavesResidual: true };

    /// <summary>What a change of some rank is multiplied by.</summary>
    internal double Scale(double alpha, int rank) => alpha / (UseRslora ? Math.Sqrt(rank) : rank);

    /// <summary>The configuration whose ranks are larger by a factor, at the same scales.</summary>
    internal LoraConfig Widened(int times)
    {
        var strength = UseRslora ? Math.Sqrt(times) : times;
        return this with
        {
            Rank = Rank * times,
            Alpha = Alpha * strength,
            RankPattern = RankPattern.ToDictionary(static entry => entry.Key, entry => entry.Value * times),
            AlphaPattern = AlphaPattern.ToDictionary(static entry => entry.Key, entry => entry.Value * strength),
        };
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new LoraAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is Embedding && LoraBias)
        {
            throw new PeftException("LoraBiasOnEmbedding", $"lora_bias can't be used on an embedding ('{layer.Path}').") { Target = layer.Path };
        }

        if (layer.Experts > 1)
        {
            return new ExpertLoraLayer(layer, IsVariant || LoraBias || Dropout > 0 || LoraInitialisation.Of(Initialisation).Decomposes
                ? throw Contradiction($"On experts ('{layer.Path}') LoRA has no dropout, no variant such as DoRA, no lora_bias and no start by a decomposition.")
                : this);
        }

        RefuseUnfit(layer);

        // Each is said for the first of such layers.
        var earlier = adapter.Layers.Select(static adapted => adapted.Layer).Where(static other => other is Linear).ToArray();
        if (layer is Linear && FanInFanOut != layer.IsTransposed && Array.TrueForAll(earlier, other => other.IsTransposed != layer.IsTransposed))
        {
            messages.Add($"fan_in_fan_out is {FanInFanOut}, but '{layer.Path}' is a {layer.Module.ClassName}: taken as {!FanInFanOut} there and in layers like it.");
        }

        if (LoraBias && layer.Bias is null && Array.TrueForAll(earlier, static other => other.Bias is not null))
        {
            messages.Add($"lora_bias is set, but '{layer.Path}' has no bias: the adapter can't be merged.");
        }

        return InvocationTokens is { Count: > 0 } ? new ActivatedLoraLayer(layer, this, adapter.Name)
            : Arrow is { } arrow ? new ArrowLayer(layer, this, arrow, adapter.Name)
            : UseQaLora ? new QaLoraLayer(layer, this)
            : Velora is { } velora ? new VeloraLayer(layer, this, velora)
            : MonteClora is { } drawn ? new MonteCloraLayer(layer, this, drawn)
            : Kasa is not null ? new KasaLayer(layer, this)
            : BlockDiagonal is { } blocks && blocks.IsFirst(layer.Path) is { } isFirst ? new BlockDiagonalLayer(layer, this, isFirst, blocks.Blocks)
            : UseDora ? new DoraLayer(layer, this)
            : new LoraLayer(layer, this);
    }

    private IEnumerable<(string Name, bool IsUsed)> Variants =>
        [("use_dora", UseDora), ("alora_invocation_tokens", InvocationTokens is { Count: > 0 }), ("kasa_config", Kasa is not null), ("use_bdlora", BlockDiagonal is not null), ("arrow_config", Arrow is not null), ("use_qalora", UseQaLora), ("velora_config", Velora is not null), ("monteclora_config", MonteClora is not null)];

    private bool IsVariant => Variants.Any(static variant => variant.IsUsed);

    private void RefuseUnfit(IAdaptable layer)
    {
        if (IsVariant && !UseDora && layer is not Linear { IsTransposed: false })
        {
            throw Contradiction($"{Variants.First(static variant => variant.IsUsed).Name} is for linear layers, which '{layer.Path}' is not.");
        }

        if (Kasa is not null && ForLayer(layer).Rank >= Math.Min(layer.Inputs, layer.Outputs))
        {
            throw Contradiction($"With kasa_config the rank on '{layer.Path}' has to be below its {Math.Min(layer.Inputs, layer.Outputs)} singular values.");
        }

        if (UseQaLora && layer.Inputs % QaLoraGroupSize != 0)
        {
            throw Contradiction($"The {layer.Inputs} inputs of '{layer.Path}' have to be a multiple of qalora_group_size ({QaLoraGroupSize}).");
        }

        if (BlockDiagonal is { } blocks && (ForLayer(layer).Rank % blocks.Blocks != 0 || layer.Inputs % blocks.Blocks != 0 || layer.Outputs % blocks.Blocks != 0))
        {
            throw Contradiction($"The rank and the sizes of '{layer.Path}' have to be multiples of the {blocks.Blocks} blocks of use_bdlora.");
        }

        if (layer.Kernel.Count > 0 && (LoraInitialisation.Of(Initialisation).Decomposes || Initialisation == "orthogonal"))
        {
            throw Contradiction($"A convolution ('{layer.Path}') has no start by a decomposition.");
        }

        if (ForLayer(layer).Rank % layer.ChannelGroups != 0)
        {
            throw Contradiction($"The rank on '{layer.Path}' has to be a multiple of the convolution's {layer.ChannelGroups} groups.");
        }

        if (UseDora && layer.Module is MultiheadAttention)
        {
            throw Contradiction($"use_dora can't be used on a {layer.Module.ClassName} ('{layer.Path}').");
        }
    }

    /// <summary>Rank and scale of a layer, patterns applied; where a module has several weights to adapt, they name the parameter.</summary>
    /// <param name="layer">The layer.</param>
    internal (int Rank, double Scale) ForLayer(IAdaptable layer)
    {
        var path = layer.Experts > 1 ? $"{layer.Path}.{layer.Weight.Name}" : layer.Path;
        var rank = TargetMatcher.Lookup(RankPattern, path, Rank);
        var alpha = TargetMatcher.Lookup(AlphaPattern, path, Alpha);

        // PEFT adds the change of this layer to its weight twice in each pass, so that its files mean it twice.
        alpha *= layer is MultiheadAttention.OutputLayer ? 2 : 1;
        return (rank, Scale(alpha, rank));
    }
}
