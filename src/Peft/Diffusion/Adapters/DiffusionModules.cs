using Peft.Adapters.Methods.Lycoris;
using Peft.Models;
using Peft.Models.Layers;

namespace Peft.Diffusion.Adapters;

/// <summary>A module that adapter files of diffusion models name.</summary>
/// <param name="Component">Its part of the pipeline: <c>unet</c>, <c>text_encoder</c> or <c>text_encoder_2</c>.</param>
/// <param name="Path">Its path there as files spell it, the text model's prefix among it.</param>
/// <param name="Layer">The module as adapters see it.</param>
internal sealed record DiffusionModule(string Component, string Path, IAdaptable Layer)
{
    /// <summary>The path in the layout of the original checkpoints; null outside of the UNet.</summary>
    public string? OriginalPath { get; init; }

    /// <summary>The path in the model's tree.</summary>
    public string TreePath => Layer.Path;
}

/// <summary>
/// The modules of a diffusion model by the names that file formats give them: kohya's (a prefix, and the path with underscores for dots, in diffusers' or in the
/// original blocks), diffusers' (dotted, by component), with or without the text model's prefix.
/// </summary>
internal sealed class DiffusionModules
{
    /// <summary>The component that denoises.</summary>
    public const string UNet = "unet";

    /// <summary>The text encoder, the first of two in SDXL.</summary>
    public const string TextEncoder = "text_encoder";

    /// <summary>SDXL's second text encoder.</summary>
    public const string SecondTextEncoder = "text_encoder_2";

    private const string TextModel = "text_model.";

    private static readonly string[] s_components = [UNet, TextEncoder, SecondTextEncoder];
    private readonly Dictionary<string, DiffusionModule> _byName = new(StringComparer.Ordinal);

    private DiffusionModules(IReadOnlyList<DiffusionModule> all)
    {
        All = all;
        foreach (var module in all)
        {
            foreach (var name in NamesOf(module))
            {
                _byName.TryAdd(name, module);
            }
        }
    }

    /// <summary>All of them, in the model's order.</summary>
    public IReadOnlyList<DiffusionModule> All { get; }

    /// <summary>Whether the model has two text encoders, as SDXL has.</summary>
    public bool HasTwoTextEncoders => All.Any(static module => module.Component == SecondTextEncoder);

    /// <summary>Width of the text that the UNet attends to; null without one.</summary>
    public long? TextWidth => All.FirstOrDefault(static module => module.Component == UNet && module.Path.EndsWith("attn2.to_k", StringComparison.Ordinal))?.Layer.Inputs;

    /// <summary>The modules of a whole pipeline, of a UNet or of a text encoder; null for another model.</summary>
    public static DiffusionModules? Of(PretrainedModel model)
    {
        var parts = s_components.Select(name => (Component: name, Root: model.Find(name))).Where(static part => part.Root is not null).ToArray();
        if (parts.Length == 0)
        {
            parts = model.Find("down_blocks") is not null ? [(UNet, model)] : IsText(model) ? [(TextEncoder, model)] : [];
        }

        return parts.Length == 0 ? null : new DiffusionModules([.. parts.SelectMany(static part => ModulesOf(part.Component, part.Root!))]);
    }

    /// <summary>The module of a name without the key behind it, in any spelling; null where there is none.</summary>
    public DiffusionModule? Find(string name) => _byName.GetValueOrDefault(name);

    /// <summary>kohya's name of a module.</summary>
    /// <param name="module">The module.</param>
    /// <param name="original">Whether in the blocks of the original checkpoints, as kohya's scripts write SDXL's UNet.</param>
    public string KohyaName(DiffusionModule module, bool original = false) =>
        Prefixes(module.Component)[HasTwoTextEncoders ? ^1 : 0] + Underscored(original && module.OriginalPath is { } path ? path : module.Path);

    private static bool IsText(Module model) => model.Find("text_model.encoder") is not null || model.Find("encoder.layers.0.self_attn.q_proj") is not null;

    private static IEnumerable<DiffusionModule> ModulesOf(string component, Module root)
    {
        var start = root.Path.Length == 0 ? 0 : root.Path.Length + 1;
        var blocks = component == UNet ? OriginalBlocks.Of(root) : null;
        foreach (var module in root.Descendants())
        {
            if (LycorisNetwork.Find(module) is { } layer)
            {
                var path = module.Path[start..];
                var isFlat = component != UNet && !path.StartsWith(TextModel, StringComparison.Ordinal) && path != "text_projection";
                yield return new DiffusionModule(component, isFlat ? TextModel + path : path, layer) { OriginalPath = blocks?.PathOf(path) };
            }
        }
    }

    private static IEnumerable<string> NamesOf(DiffusionModule module)
    {
        string[] paths = module.Path.StartsWith(TextModel, StringComparison.Ordinal) ? [module.Path, module.Path[TextModel.Length..]]
            : module.OriginalPath is { } original ? [module.Path, original] : [module.Path];
        foreach (var path in paths)
        {
            foreach (var prefix in Prefixes(module.Component))
            {
                yield return prefix + Underscored(path);
            }

            yield return $"{module.Component}.{path}";
            if (module.Component == UNet)
            {
                yield return path;
                yield return "lycoris_" + Underscored(path);
            }
        }
    }

    /// <summary>kohya's prefixes of a component; SDXL's is the last where there are several.</summary>
    private static string[] Prefixes(string component) => component switch
    {
        UNet => ["lora_unet_"],
        TextEncoder => ["lora_te_", "lora_te1_"],
        _ => ["lora_te2_"],
    };

    private static string Underscored(string path) => path.Replace('.', '_');
}
