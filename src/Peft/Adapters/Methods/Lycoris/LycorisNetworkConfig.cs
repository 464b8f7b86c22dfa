using Peft.Adapters.Configuration;
using Peft.Adapters.Files;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lycoris;

/// <summary>
/// A LyCORIS network (Yeh et al. 2024): one of its algorithms on linear layers and convolutions, and on norms where they are trained too. Fields are LyCORIS's
/// own. A network that was read from a file has whatever that holds on each module, whatever the fields say.
/// </summary>
public sealed record LycorisNetworkConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "LYCORIS";

    /// <summary>What changes a weight: <c>lora</c> and <c>locon</c> (LoRA, on convolutions too), <c>loha</c>, <c>lokr</c>, <c>ia3</c>, <c>full</c>, <c>diag-oft</c>, <c>boft</c>, <c>glora</c>, <c>dylora</c> or <c>tlora</c>.</summary>
    [ConfigField("algo", Choices = ["lora", "locon", "loha", "lokr", "ia3", "full", "diag-oft", "boft", "glora", "dylora", "tlora"])]
    public string Algorithm { get; init; } = "lora";

    /// <summary>Rank on linear layers and convolutions of one tap; for OFT and BOFT the largest size of a block.</summary>
    [ConfigField("network_dim", Parameter = "Rank", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 4;

    /// <summary>Strength on these: the change is multiplied by alpha / rank.</summary>
    [ConfigField("network_alpha", Parameter = "Alpha")]
    public double Alpha { get; init; } = 1;

    /// <summary>Rank on other convolutions; 0 for that of linear layers.</summary>
    [ConfigField("conv_dim", Parameter = "ConvolutionRank", Minimum = 0, ErrorId = "RankInvalid")]
    public int ConvolutionRank { get; init; }

    /// <summary>Strength on other convolutions; 0 for that of linear layers.</summary>
    [ConfigField("conv_alpha", Parameter = "ConvolutionAlpha")]
    public double ConvolutionAlpha { get; init; }

    /// <summary>The largest factor into which LoKr divides a size; -1 for divisors near the square root.</summary>
    [ConfigField("factor")]
    public int Factor { get; init; } = -1;

    /// <summary>Lets LoKr decompose its first matrix as well.</summary>
    [ConfigField("decompose_both")]
    public bool DecomposeBoth { get; init; }

    /// <summary>Lets LoKr keep both of its matrices whole.</summary>
    [ConfigField("full_matrix")]
    public bool FullMatrix { get; init; }

    /// <summary>Lets LoKr's first matrix take the larger part of the outputs.</summary>
    [ConfigField("unbalanced_factorization")]
    public bool UnbalancedFactorization { get; init; }

    /// <summary>Puts a core between the factors of convolutions (CP or Tucker decomposition).</summary>
    [ConfigField("use_tucker")]
    public bool UseTucker { get; init; }

    /// <summary>Trains the lengths of weights apart from their directions (DoRA), with <c>lora</c>, <c>locon</c>, <c>loha</c> and <c>lokr</c>.</summary>
    [ConfigField("dora_wd", Parameter = "UseDora")]
    public bool UseDora { get; init; }

    /// <summary>With DoRA, whether rows of the weight have lengths (one for each output), and not columns.</summary>
    [ConfigField("wd_on_output", Parameter = "DoraOnOutput")]
    public bool DoraOnOutput { get; init; } = true;

    /// <summary>Multiplies by alpha / √rank instead. In files it is part of alpha.</summary>
    [ConfigField("rs_lora", Parameter = "RankStabilized")]
    public bool RankStabilized { get; init; }

    /// <summary>With (IA)³, whether inputs have factors, and not outputs.</summary>
    [ConfigField("train_on_input")]
    public bool TrainOnInput { get; init; }

    /// <summary>Limit of OFT's and BOFT's rotations, for each output; 0 for none.</summary>
    [ConfigField("constraint", IsReal = true, Minimum = 0)]
    public double Constraint { get; init; }

    /// <summary>Gives each output of OFT and BOFT a factor.</summary>
    [ConfigField("rescaled")]
    public bool Rescaled { get; init; }

    /// <summary>Ranks of a block of DyLoRA, which divides the rank.</summary>
    [ConfigField("block_size", Minimum = 1)]
    public int BlockSize { get; init; } = 4;

    /// <summary>Lets T-LoRA's ranks act by the timestep, fewer at more noise, in training and in generating.</summary>
    [ConfigField("timestep_mask", Parameter = "TimestepMask")]
    public bool MasksTimesteps { get; init; }

    /// <summary>Ranks of T-LoRA that act at the last timestep.</summary>
    [ConfigField("min_rank", Minimum = 1)]
    public int MinimumRank { get; init; } = 1;

    /// <summary>How fast T-LoRA's ranks go with noise: 1 in proportion.</summary>
    [ConfigField("mask_alpha", IsReal = true, Minimum = 0)]
    public double MaskPower { get; init; } = 1;

    /// <summary>Trains the norms beside the adapted layers too.</summary>
    [ConfigField("train_norm", Parameter = "TrainNorm")]
    public bool TrainsNorms { get; init; }

    /// <summary>
    /// What is adapted of a diffusion model where no target modules are given: <c>full</c> (blocks of UNet and text encoders, and what stands outside of them), <c>full-lin</c>
    /// (without convolutions of several taps), <c>attn-mlp</c> (transformers), <c>attn-only</c>, <c>unet-only</c>, <c>unet-transformer-only</c> or <c>unet-convblock-only</c>.
    /// </summary>
    [ConfigField("preset", Choices = ["full", "full-lin", "attn-mlp", "attn-only", "unet-only", "unet-transformer-only", "unet-convblock-only", "ia3"])]
    public string Preset { get; init; } = LycorisPreset.Standard;

    /// <summary>What acts on each module, by its path; null for a new network, before its targets are known.</summary>
    public IReadOnlyDictionary<string, LycorisModule>? Modules { get; init; }

    /// <summary>What the file that it was read from said beside its tensors; goes into files of the same kind again.</summary>
    public IReadOnlyDictionary<string, string> FileMetadata { get; init; } = new Dictionary<string, string>();

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new LycorisNetwork(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear or Convolution or NormWeight ? Trained(ModuleOf(layer)).CreateLayer(layer) : throw KindRefused(layer);

    /// <summary>What no file of tensors says of how a module is trained.</summary>
    private LycorisModule Trained(LycorisModule module) => module with
    {
        BlockSize = Algorithm == "dylora" ? BlockSize : null,
        Mask = MasksTimesteps ? new TimestepMask(MinimumRank, MaskPower) : null,
    };

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (Modules is null && Algorithm == "dylora" && (Rank % BlockSize != 0 || ConvolutionRank % BlockSize != 0))
        {
            throw Contradiction(FormattableString.Invariant($"block_size ({BlockSize}) must divide the ranks of DyLoRA ({Rank}{(ConvolutionRank > 0 ? $" and {ConvolutionRank}" : "")})."));
        }
    }

    /// <summary>What acts on a layer: what the file has there, or what the fields ask for.</summary>
    internal LycorisModule ModuleOf(IAdaptable layer) => Modules is { } modules ? modules[layer.Path] : LycorisDesign.Of(layer, this);

    /// <summary>The configuration whose targets are the modules that a new network adapts: those that are named, or the preset's.</summary>
    /// <param name="model">The model.</param>
    /// <exception cref="PeftException"><c>NoModuleMatched</c>.</exception>
    internal LycorisNetworkConfig Aimed(PretrainedModel model)
    {
        if (TargetModules is not null || !LycorisPreset.Knows(model))
        {
            return this with { TargetModules = TargetMatcher.Resolve(this, model) };
        }

        // GLoRA is for transformers alone, whatever the preset.
        var preset = LycorisPreset.Of(Preset);
        preset = Algorithm == "glora" ? preset with { UNetClasses = ["Transformer2DModel"], UNetNames = [] } : preset;
        var modules = preset.Match(model);
        return modules.Count > 0 ? this with { TargetModules = ModuleNames.Of([.. modules.Select(static module => module.Path)]) }
            : throw new PeftException("NoModuleMatched", $"The preset '{Preset}' matches no module of the model.") { Target = Preset, RecommendedAction = "Choose another preset, or name modules." };
    }

    /// <summary>The norms that a new network trains: those of the preset's blocks, or those beside the modules that are named.</summary>
    internal IEnumerable<Module> Norms(PretrainedModel model, bool isAimed) => isAimed
        ? LycorisPreset.Of(Preset).Match(model, withNorms: true).Where(static module => module is INorm)
        : TargetMatcher.Match(this, model, []).Select(static match => match.Module.Parent).OfType<Module>().Distinct().SelectMany(static holder => holder.Children).Where(static module => module is INorm);

    /// <summary>The file says what acts on each module.</summary>
    /// <inheritdoc/>
    internal override (AdapterConfig Config, TensorStore Tensors) ForFile(TensorStore file, PretrainedModel model)
    {
        var builder = new LycorisModules();
        foreach (var name in file.Names)
        {
            var plain = name.StartsWith(AdapterFile.Prefix, StringComparison.Ordinal) ? name[AdapterFile.Prefix.Length..] : name;
            if (LycorisModules.Split(plain) is var (path, key))
            {
                builder.Add(path, key, file.Entry(name).Shape, () => Number(file, name));
            }
        }

        return (this with { Modules = builder.Build(), TargetModules = ModuleNames.Of([.. builder.Paths]) }, file);
    }

    /// <summary>A tensor of one element, as a number.</summary>
    internal static double Number(TensorStore file, string name)
    {
        using var value = file.Read(name, ScalarType.Float32);
        return value.numel() == 1 ? value.item<float>() : throw new PeftException("AdapterTensorInvalid", $"'{file.Path}': {name} should be one number and has the shape [{string.Join(", ", value.shape)}].")
        {
            Target = name,
            RecommendedAction = "Fetch the file again.",
        };
    }
}
