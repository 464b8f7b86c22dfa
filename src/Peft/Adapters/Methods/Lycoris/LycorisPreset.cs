using Peft.Models;
using Peft.Models.Layers;

namespace Peft.Adapters.Methods.Lycoris;

/// <summary>
/// LyCORIS's built-in sets of targets: everything in blocks of some classes, and modules whose paths begin with some names. Each module counts once, however
/// many ways lead to it. Three of its presets it refuses itself on Stable Diffusion, since a class and a name both lead to the time embedding: there the names
/// alone count, so that SDXL's embedding of sizes stays out.
/// </summary>
/// <param name="Name">What it is called.</param>
/// <param name="AdaptsConvolutions">Whether convolutions of several taps are among them.</param>
internal sealed record LycorisPreset(string Name, bool AdaptsConvolutions)
{
    /// <summary>The preset where none is named.</summary>
    public const string Standard = "full";

    /// <summary>The class of what embeds times.</summary>
    internal const string TimeEmbedding = "TimestepEmbedding";

    private const string Transformer = "Transformer2DModel";
    private static readonly string[] s_textAttention = ["CLIPAttention", "CLIPSdpaAttention"];
    private static readonly string[] s_text = [.. s_textAttention, "CLIPMLP"];
    private static readonly string[] s_time = ["time_embedding.linear_1", "time_embedding.linear_2"];
    private static readonly string[] s_blocks = ["ResnetBlock2D", "Downsample2D", "Upsample2D"];

    /// <summary>Classes of blocks in a UNet.</summary>
    public IReadOnlyList<string> UNetClasses { get; init; } = [];

    /// <summary>Beginnings of paths in a UNet.</summary>
    public IReadOnlyList<string> UNetNames { get; init; } = [];

    /// <summary>Classes of blocks in a text encoder.</summary>
    public IReadOnlyList<string> TextClasses { get; init; } = [];

    /// <summary>Beginnings of paths in a text encoder.</summary>
    public IReadOnlyList<string> TextNames { get; init; } = [];

    /// <summary>All of them. <c>ia3</c> gives endings where beginnings are asked for, and so adapts nothing, here as there.</summary>
    public static IReadOnlyList<LycorisPreset> All { get; } =
    [
        new("full", true) { UNetClasses = [Transformer, .. s_blocks], UNetNames = ["conv_in", "conv_out", .. s_time], TextClasses = s_text },
        new("full-lin", false) { UNetClasses = [Transformer, "ResnetBlock2D"], UNetNames = s_time, TextClasses = s_text },
        new("attn-mlp", false) { UNetClasses = [Transformer, TimeEmbedding], TextClasses = s_text },
        new("attn-only", false) { UNetClasses = ["CrossAttention", "SelfAttention"], TextClasses = s_textAttention },
        new("unet-only", true) { UNetClasses = [Transformer, .. s_blocks], UNetNames = ["conv_in", "conv_out", .. s_time] },
        new("unet-transformer-only", false) { UNetClasses = [Transformer, TimeEmbedding] },
        new("unet-convblock-only", true) { UNetClasses = s_blocks, UNetNames = ["conv_in", "conv_out"] },
        new("ia3", true) { UNetNames = ["to_k", "to_v", "ff.net.2"], TextNames = ["k_proj", "v_proj", "mlp.fc2"] },
    ];

    /// <summary>The preset of a name.</summary>
    /// <exception cref="PeftException"><c>PresetUnknown</c>.</exception>
    public static LycorisPreset Of(string name) => All.FirstOrDefault(preset => preset.Name == name)
        ?? throw new PeftException("PresetUnknown", $"There is no preset '{name}'; there are {string.Join(", ", All.Select(static preset => preset.Name))}.")
        {
            Target = name,
            RecommendedAction = "Choose one of these, or name modules.",
        };

    /// <summary>Whether a model has parts that presets are made for.</summary>
    public static bool Knows(Module model) => Parts(model).Any();

    /// <summary>The modules of a model that the preset names, in the model's order.</summary>
    /// <param name="model">The model.</param>
    /// <param name="withNorms">Whether norms in the blocks are among them.</param>
    public IReadOnlyList<Module> Match(Module model, bool withNorms = false)
    {
        HashSet<Module> found = [];
        foreach (var (root, isText) in Parts(model))
        {
            var (classes, names) = isText ? (TextClasses, TextNames) : (UNetClasses, UNetNames);
            foreach (var module in root.Descendants())
            {
                var path = module.Path[Math.Min(module.Path.Length, root.Path.Length == 0 ? 0 : root.Path.Length + 1)..];
                if (classes.Contains(module.ClassName))
                {
                    found.UnionWith(module.Descendants());
                }
                else if (names.Any(name => path.StartsWith(name, StringComparison.Ordinal)))
                {
                    found.Add(module);
                }
            }
        }

        return [.. model.Descendants().Where(found.Contains).Where(module => module is Linear || (module is Convolution convolution && (AdaptsConvolutions || convolution.Kernel.All(static size => size == 1))) || (withNorms && module is INorm))];
    }

    /// <summary>The UNet and the text encoders of a pipeline, or the model itself where it is one of them.</summary>
    private static IEnumerable<(Module Root, bool IsText)> Parts(Module model) =>
        model.Descendants().Where(static module => module.ClassName is "UNet2DConditionModel" || IsText(module)).Select(static module => (module, IsText(module)));

    private static bool IsText(Module module) => module.ClassName is "CLIPTextModel" or "CLIPTextModelWithProjection";
}
