using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;

namespace Peft.Adapters.Methods.Lora;

/// <summary>
/// What LoRA's targets mean where they name layers that stood in each expert by itself (<c>gate_proj</c>, <c>w1</c>) before the weights of all
/// experts were one: the parameters of today, <c>gate_up_proj</c> with the ranks of both that are joined in it.
/// </summary>
internal static class ExpertTargets
{
    private const string Router = "gate";

    /// <summary>The types of models whose configurations PEFT reads so.</summary>
    private static readonly HashSet<string> s_types = new(StringComparer.Ordinal)
    {
        "deepseek_v2", "deepseek_v3", "dots1", "ernie4_5_moe", "exaone_moe", "flex_olmo", "glm4_moe", "hunyuan_v1_moe", "longcat_flash", "minimax", "mixtral", "olmoe",
        "qwen3_moe", "qwen3_next", "solar_open",
    };

    /// <summary>Whether names of single experts' layers mean their parameters in a model.</summary>
    internal static bool Reads(PretrainedModel model) => s_types.Contains(model.Config.ModelType);

    /// <summary>The configuration of a new adapter with the parameters that its targets mean.</summary>
    /// <exception cref="PeftException"><c>AdapterConfigContradictory</c>: one of two that are joined.</exception>
    public static LoraConfig Convert(LoraConfig config, PretrainedModel model)
    {
        var rules = Reads(model) ? model.Keys.OfExperts.ToArray() : [];
        if (rules.Length == 0 || config.TargetModules is null or { Pattern: not null, IsAllLinear: false })
        {
            return config;
        }

        var parts = rules.SelectMany(static rule => rule.File.Select(name => (Part: Leaf(name), Whole: Leaf(rule.Tree[0]), rule.File.Count))).DistinctBy(static part => part.Part)
            .ToDictionary(static part => part.Part, static part => (part.Whole, part.Count), StringComparer.Ordinal);
        var isAll = config.TargetModules.IsAllLinear;
        var names = TargetMatcher.Resolve(config, model).Names!;
        string[] meant = isAll ? [.. parts.Keys.Append(Router)] : [.. names.Select(Leaf).Where(name => parts.ContainsKey(name) || IsRouter(name, model)).Distinct(StringComparer.Ordinal)];
        if (meant.Length == 0)
        {
            return config;
        }

        // As with PEFT, all-linear leaves out dense layers and shared experts that have these names.
        config = config with { TargetModules = ModuleNames.Of(names.Where(name => !meant.Contains(Leaf(name)) || (!isAll && parts.ContainsKey(Leaf(name)) && IsModule(name, model)))) };
        foreach (var group in meant.Where(parts.ContainsKey).GroupBy(name => parts[name].Whole))
        {
            if (group.Count() < parts[group.First()].Count)
            {
                var other = string.Join(" and ", parts.Keys.Where(name => parts[name].Whole == group.Key && !group.Contains(name)));
                throw new PeftException("AdapterConfigContradictory", $"{string.Join(" and ", group)} can't be adapted without {other}: in each expert they are one weight, {group.Key}.")
                {
                    RecommendedAction = $"Name {other} as well.",
                };
            }

            config = WithParameter(config, group.Key, config.Rank * group.Count(), config.Alpha * (config.UseRslora ? Math.Sqrt(group.Count()) : group.Count()));
        }

        return meant.Contains(Router) ? WithParameter(config, $"{Router}.weight", config.Rank, config.Alpha) : config;
    }

    /// <summary>The configuration with one more parameter, of a rank and an alpha of its own where they are others.</summary>
    private static LoraConfig WithParameter(LoraConfig config, string name, int rank, double alpha) => config with
    {
        TargetParameters = [.. (config.TargetParameters ?? []).Append(name).Distinct(StringComparer.Ordinal)],
        RankPattern = rank == config.Rank ? config.RankPattern : With(config.RankPattern, Pattern(name), rank),
        AlphaPattern = rank == config.Rank ? config.AlphaPattern : With(config.AlphaPattern, Pattern(name), alpha),
    };

    /// <summary>The key of a pattern table for a parameter wherever it stands.</summary>
    internal static string Pattern(string name) => $@".*\.{name}";

    /// <summary>A table with one more entry, the last, as PEFT writes it.</summary>
    internal static Dictionary<string, T> With<T>(IReadOnlyDictionary<string, T> table, string key, T value) =>
        new(table.Where(entry => entry.Key != key).Append(KeyValuePair.Create(key, value)), StringComparer.Ordinal);

    /// <summary>Whether a name means routers alone.</summary>
    internal static bool IsRouter(string name, PretrainedModel model) => Matches(name, model).ToArray() is { Length: > 0 } all && Array.TrueForAll(all, static module => module is Router);

    /// <summary>Whether a name means a module.</summary>
    internal static bool IsModule(string name, PretrainedModel model) => Matches(name, model).Any();

    private static IEnumerable<Module> Matches(string name, PretrainedModel model) => model.Descendants().Where(module => TargetMatcher.EndsWith(module.Path, name));

    private static string Leaf(string name)
    {
        name = name.EndsWith(".weight", StringComparison.Ordinal) ? name[..^".weight".Length] : name;
        return name[(name.LastIndexOf('.') + 1)..];
    }
}
