using System.Globalization;
using Peft.Adapters.Methods.Lora;
using Peft.Models;
using Peft.Models.Layers;

namespace Peft.Adapters.Targets;

/// <summary>Names that mean a part of every block, whatever the family calls its layers.</summary>
public static class PartNames
{
    /// <summary>The linear layers of what lets positions see others: attention, or a recurrence or convolution in its place.</summary>
    public const string Attention = "all-attention";

    /// <summary>The other linear layers of the blocks, and the experts that are targeted by their layers' names.</summary>
    public const string Mlp = "all-mlp";

    // How transformers calls what mixes positions, behind the family's name.
    private static readonly string[] s_mixers = ["Attention", "DeltaNet", "MambaLayer", "ShortConv"];

    /// <summary>The names that a part has in a model; null where the name means no part, empty where the model has none.</summary>
    /// <param name="name">What was given.</param>
    /// <param name="model">The model.</param>
    internal static IReadOnlyList<string>? Of(string name, PretrainedModel model)
    {
        if (name is not (Attention or Mlp))
        {
            return null;
        }

        string[] mixers = [.. model.Descendants().Where(static module => s_mixers.Any(part => module.ClassName.Contains(part, StringComparison.Ordinal))).Select(static module => module.Path + ".")];
        Module[] layers =
        [
            .. model.AdaptableModules.Where(static module => module is Linear && module.Path.Split('.').Any(static part => int.TryParse(part, NumberStyles.None, CultureInfo.InvariantCulture, out _)))
                .Where(module => Array.Exists(mixers, path => module.Path.StartsWith(path, StringComparison.Ordinal)) == (name == Attention)),
        ];
        string[] experts = name == Mlp && ExpertTargets.Reads(model) ? [.. OfExperts(model)] : [];
        return [.. (layers.Length > 0 ? ModuleNames.Exactly(layers, model).Names! : []).Concat(experts).Distinct(StringComparer.Ordinal)];
    }

    /// <summary>What layers of single experts are called in the family's files.</summary>
    internal static IEnumerable<string> OfExperts(PretrainedModel model) =>
        model.Keys.OfExperts.SelectMany(static rule => rule.File).Select(static file => file.Replace(".weight", "", StringComparison.Ordinal)).Select(static file => file[(file.LastIndexOf('.') + 1)..]);
}
