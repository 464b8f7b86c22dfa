namespace Peft.Training.Optimizers;

/// <summary>The optimisers by Hugging Face's names (<c>optim</c>). A new one is a file, and a line here.</summary>
public static class OptimizerRegistry
{
    private static readonly Dictionary<string, Kind> s_kinds = new(StringComparer.Ordinal)
    {
        ["adamw_torch"] = new("Adam with decoupled weight decay", static (parameters, settings) => new AdamW(parameters, settings)),
        ["adamw_torch_fused"] = new("the same as adamw_torch", static (parameters, settings) => new AdamW(parameters, settings)),
        ["adam"] = new("Adam; its weight decay is part of the gradient", static (parameters, settings) => new Adam(parameters, settings)),
        ["schedule_free_adamw"] = new("AdamW that averages its weights in place of a falling rate", static (parameters, settings) => new ScheduleFree(parameters, settings)),
        ["nadam"] = new("Adam with Nesterov momentum", static (parameters, settings) => new NAdam(parameters, settings)),
        ["radam"] = new("Adam whose first steps are rectified", static (parameters, settings) => new RAdam(parameters, settings)),
        ["sgd"] = new("stochastic gradient descent, with momentum where optim_args says so", static (parameters, settings) => new Sgd(parameters, settings)),
        ["rmsprop"] = new("gradients divided by their running root mean square", static (parameters, settings) => new RmsProp(parameters, settings)),
        ["adagrad"] = new("gradients divided by the root of the sum of all their squares", static (parameters, settings) => new Adagrad(parameters, settings)),
        ["adafactor"] = new("second moments by rows and columns, in less memory", static (parameters, settings) => new Adafactor(parameters, settings)),
        ["loraplus"] = new("AdamW with a higher rate for the B matrices of LoRA (loraplus_lr_ratio)", static (parameters, settings) => new AdamW(parameters, settings)) { Group = LoraPlus.Group },
        ["lorafa"] = new("LoRA whose A matrices stay frozen (LoRA-FA)", static (parameters, settings) => new LoraFrozenA(parameters, settings)) { Trains = LoraFrozenA.Trains },
        ["riemannian"] = new("AdamW on gradients that are scaled by the other factor of LoRA", static (parameters, settings) => new Riemannian(parameters, settings)),
        ["adamw_8bit"] = EightBits("AdamW", static (parameters, settings, form) => new BlockwiseAdamW(parameters, settings, form)),
        ["adamw_bnb_8bit"] = EightBits("AdamW", static (parameters, settings, form) => new BlockwiseAdamW(parameters, settings, form)),
        ["paged_adamw_8bit"] = EightBits("AdamW", static (parameters, settings, form) => new BlockwiseAdamW(parameters, settings, form), isPaged: true),
        ["adamw_32bit"] = ThirtyTwoBits("AdamW", static (parameters, settings, form) => new BlockwiseAdamW(parameters, settings, form)),
        ["paged_adamw_32bit"] = ThirtyTwoBits("AdamW", static (parameters, settings, form) => new BlockwiseAdamW(parameters, settings, form), isPaged: true),
        ["adam_8bit"] = EightBits("Adam", static (parameters, settings, form) => new BlockwiseAdamW(parameters, settings, form)),
        ["lion_8bit"] = EightBits("Lion", static (parameters, settings, form) => new BlockwiseLion(parameters, settings, form)),
        ["paged_lion_8bit"] = EightBits("Lion", static (parameters, settings, form) => new BlockwiseLion(parameters, settings, form), isPaged: true),
        ["lion_32bit"] = ThirtyTwoBits("Lion", static (parameters, settings, form) => new BlockwiseLion(parameters, settings, form)),
        ["paged_lion_32bit"] = ThirtyTwoBits("Lion", static (parameters, settings, form) => new BlockwiseLion(parameters, settings, form), isPaged: true),
        ["ademamix_8bit"] = EightBits("AdEMAMix", static (parameters, settings, form) => new BlockwiseAdEMAMix(parameters, settings, form)),
        ["paged_ademamix_8bit"] = EightBits("AdEMAMix", static (parameters, settings, form) => new BlockwiseAdEMAMix(parameters, settings, form), isPaged: true),
        ["ademamix"] = ThirtyTwoBits("AdEMAMix", static (parameters, settings, form) => new BlockwiseAdEMAMix(parameters, settings, form)),
        ["paged_ademamix_32bit"] = ThirtyTwoBits("AdEMAMix", static (parameters, settings, form) => new BlockwiseAdEMAMix(parameters, settings, form), isPaged: true),
        ["rmsprop_bnb_8bit"] = EightBits("RMSprop", static (parameters, settings, form) => new BlockwiseRmsProp(parameters, settings, form)),
        ["rmsprop_bnb"] = ThirtyTwoBits("RMSprop", static (parameters, settings, form) => new BlockwiseRmsProp(parameters, settings, form)),
        ["rmsprop_bnb_32bit"] = ThirtyTwoBits("RMSprop", static (parameters, settings, form) => new BlockwiseRmsProp(parameters, settings, form)),
        ["sgd_8bit"] = EightBits("gradient descent with momentum", static (parameters, settings, form) => new BlockwiseSgd(parameters, settings, form)),
    };

    /// <summary>Names of all optimisers.</summary>
    public static IReadOnlyCollection<string> Names => s_kinds.Keys;

    /// <summary>What an optimiser does, in a few words; the name where nobody knows it.</summary>
    /// <param name="name">The optimiser's name.</param>
    public static string Describe(string name) => s_kinds.TryGetValue(name, out var known) ? known.Summary : name;

    /// <summary>A name as it is written here, whatever the case of the one that was given; one that nobody knows comes back as it is.</summary>
    internal static string Canonical(string name) => Names.FirstOrDefault(known => known.Equals(name, StringComparison.OrdinalIgnoreCase)) ?? name;

    /// <summary>Makes an optimiser over parameters, which become views into its flat buffers.</summary>
    /// <param name="parameters">What it trains.</param>
    /// <param name="options">Names the optimiser, its own options, the rate and the decay.</param>
    /// <exception cref="NotSupportedByPeftException"><c>OptimizerNotSupported</c>: nobody knows the name.</exception>
    /// <exception cref="PeftException"><c>TrainingOptionUnknown</c> or <c>TrainingOptionInvalid</c>: an option doesn't fit the optimiser.</exception>
    public static Optimizer Create(IEnumerable<TrainedParameter> parameters, TrainingOptions options)
    {
        RequireKnown(options.Optimizer);
        var kind = s_kinds[options.Optimizer];
        TrainedParameter[] all = [.. parameters];
        var settings = new OptimizerSettings(options, new NamedOptions($"optimiser '{options.Optimizer}'", options.OptimizerOptions), all);
        var flat = new FlatParameters(all.Where(kind.Trains), trained => kind.Group(trained, settings));
        try
        {
            var optimizer = kind.Create(flat, settings);
            settings.Own.RefuseOthers();
            return optimizer;
        }
        catch
        {
            flat.Dispose();
            throw;
        }
    }

    internal static void RequireKnown(string name)
    {
        if (!s_kinds.ContainsKey(name))
        {
            throw new NotSupportedByPeftException("OptimizerNotSupported", $"There is no optimiser '{name}'. Choose one of {string.Join(", ", Names)}.{Spelling.DidYouMean(name, Names)}")
            {
                Target = name,
                RecommendedAction = "Correct the name.",
            };
        }
    }

    private static Kind EightBits(string what, Func<FlatParameters, OptimizerSettings, MemoryForm, Optimizer> create, bool isPaged = false) =>
        new($"{what} whose memory is eight bits a number, by blocks{(isPaged ? ", in the processor's memory" : "")} (bitsandbytes)", (parameters, settings) => create(parameters, settings, new MemoryForm(8, isPaged)));

    private static Kind ThirtyTwoBits(string what, Func<FlatParameters, OptimizerSettings, MemoryForm, Optimizer> create, bool isPaged = false) =>
        new($"{what} as bitsandbytes computes it{(isPaged ? ", its memory the processor's" : "")}", (parameters, settings) => create(parameters, settings, new MemoryForm(32, isPaged)));

    private sealed record Kind(string Summary, Func<FlatParameters, OptimizerSettings, Optimizer> Create)
    {
        /// <summary>How each parameter is trained; by default alike, but for the exemption from decay.</summary>
        public Func<TrainedParameter, OptimizerSettings, GroupSettings> Group { get; init; } = static (trained, settings) =>
            new GroupSettings(settings.Training.LearningRate, WeightDecay.Spares(trained) ? 0 : settings.Training.WeightDecay);

        /// <summary>Which parameters it trains; the others stay as they are.</summary>
        public Func<TrainedParameter, bool> Trains { get; init; } = static _ => true;
    }
}

/// <summary>What an optimiser is made from.</summary>
/// <param name="Training">Rate, decay, betas and epsilon.</param>
/// <param name="Own">The optimiser's own options (<c>optim_args</c>).</param>
/// <param name="Parameters">Everything that could be trained.</param>
internal sealed record OptimizerSettings(TrainingOptions Training, NamedOptions Own, IReadOnlyList<TrainedParameter> Parameters)
{
    /// <summary>Decays of the two moments: the optimiser's own <c>betas</c>, or the training's.</summary>
    public (double First, double Second) Betas => Own.Pair("betas") ?? (Training.Beta1, Training.Beta2);

    /// <summary>The optimiser's own <c>eps</c>, or a default.</summary>
    public double Epsilon(double otherwise) => Own.Number("eps") ?? otherwise;
}
