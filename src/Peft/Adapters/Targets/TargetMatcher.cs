using System.Globalization;
using System.Text.RegularExpressions;
using Peft.Adapters.Configuration;
using Peft.Models;
using Peft.Models.Layers;

namespace Peft.Adapters.Targets;

/// <summary>Finds the modules a configuration names, by PEFT's rules.</summary>
public static class TargetMatcher
{
    /// <summary>As many names as a message lists.</summary>
    private const int MostNames = 16;

    private static readonly TimeSpan s_patternTime = TimeSpan.FromSeconds(1);

    /// <summary>What families call the head of a classifier.</summary>
    internal static IReadOnlyList<string> ClassificationHeads { get; } = ["classifier", "score"];

    /// <summary>Says which modules a configuration means, once defaults and "all-linear" are resolved.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="model">The model.</param>
    /// <exception cref="PeftException"><c>TargetsMissing</c>: none are named and the family has no defaults.</exception>
    public static ModuleNames Resolve(LayerwiseConfig config, PretrainedModel model)
    {
        if (config.TargetModules is not { } targets)
        {
            if (config.TargetParameters is { Count: > 0 })
            {
                return ModuleNames.Of();
            }

            return config.DefaultTargetModules.GetValueOrDefault(model.Config.ModelType)
                ?? throw new PeftException("TargetsMissing", $"No target modules were given, and there are no defaults for a model of the type '{model.Config.ModelType}'.")
                {
                    RecommendedAction = "Name the modules to adapt (Get-ModelModule lists them), or give all-linear.",
                };
        }

        return targets.IsAllLinear ? AllLinear(config, model) : Modern(targets, model);
    }

    /// <summary>The modules that a resolved configuration targets, in the model's order.</summary>
    /// <param name="config">The configuration, its targets resolved.</param>
    /// <param name="model">The model.</param>
    /// <param name="messages">Takes what the user should know although it is no error.</param>
    /// <exception cref="PeftException"><c>NoModuleMatched</c>, <c>AllTargetsExcluded</c> or <c>TargetPatternInvalid</c>.</exception>
    public static IReadOnlyList<NamedModule> Match(LayerwiseConfig config, PretrainedModel model, ICollection<string> messages)
    {
        List<NamedModule> matched = [];
        var excluded = 0;
        foreach (var module in model.AdaptableModules)
        {
            var path = module.Path;
            if (path.Length == 0)
            {
                continue;
            }

            if (IsExcluded(config, path))
            {
                excluded++;
            }
            else if (IsTarget(config, path))
            {
                matched.Add(new NamedModule(path, module));
            }
        }

        if (matched.Count == 0 && config.TargetParameters is not { Count: > 0 })
        {
            throw NothingMatched(config, model);
        }

        if (config.ExcludeModules is not null && excluded == 0)
        {
            messages.Add($"exclude_modules ({config.ExcludeModules}) left nothing out.");
        }

        // What is named and left out again, as PEFT writes all-linear without some, is no mistake.
        foreach (var idle in config.TargetModules?.Names?.Where(name => !model.AdaptableModules.Any(module => EndsWith(module.Path, name))) ?? [])
        {
            messages.Add(idle == ModuleNames.AllLinearWord
                ? $"target_modules names '{idle}', which has to stand alone: beside other names it means no module."
                : $"target_modules names '{idle}', which matches no module.{Spelling.DidYouMean(idle, model.Descendants().Select(static module => module.Name))}");
        }

        foreach (var layer in config.LayersToTransform?.Where(layer => !matched.Exists(match => IsInLayers(config with { LayersToTransform = [layer] }, match.Path))) ?? [])
        {
            messages.Add(FormattableString.Invariant($"layers_to_transform names {layer}, a layer in which no target lies."));
        }

        // What is named of experts is a parameter, or was a layer before the weights of all experts were one.
        string[] paths = [.. matched.Select(static match => match.Path), .. config.TargetParameters is { Count: > 0 } ? MatchParameters(config, model, []).Select(static named => named.Path) : []];
        var ofExperts = PartNames.OfExperts(model);
        foreach (var (field, key) in PatternKeys(config).Where(entry => !ofExperts.Any(name => entry.Key.EndsWith("." + name, StringComparison.Ordinal))
            && !Array.Exists(paths, path => Lookup(new Dictionary<string, bool> { [entry.Key] = true }, path, false))))
        {
            messages.Add($"{field} names '{key}', which matches no target.{Spelling.DidYouMean(key, model.Descendants().Select(static module => module.Name))}");
        }

        return matched;
    }

    /// <summary>Names that no module has and that the family's files gave to some: those that these have today.</summary>
    private static ModuleNames Modern(ModuleNames names, PretrainedModel model)
    {
        if (names.Names is not { } own)
        {
            return names;
        }

        string[] paths = [.. model.AdaptableModules.Select(static module => module.Path)];
        string[] modern = [.. own.SelectMany(name => PartNames.Of(name, model) is { Count: > 0 } part ? part : Array.Exists(paths, path => EndsWith(path, name)) || model.Keys.TreeNames(name).ToArray() is not { Length: > 0 } today ? [name] : today).Distinct(StringComparer.Ordinal)];
        return own.SequenceEqual(modern) ? names : ModuleNames.Of(modern);
    }

    /// <summary>The parameters that <c>target_parameters</c> names, by their whole names or endings of whole parts, in the model's order.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="model">The model.</param>
    /// <param name="messages">Takes the names that match nothing.</param>
    /// <exception cref="PeftException"><c>NoModuleMatched</c>: none of them matches, and no module is a target.</exception>
    public static IReadOnlyList<NamedParameter> MatchParameters(LayerwiseConfig config, PretrainedModel model, ICollection<string> messages)
    {
        if (config.TargetParameters is not { Count: > 0 } names)
        {
            return [];
        }

        NamedParameter[] matched = [.. model.NamedParameters().Where(named => names.Any(name => EndsWith(named.Path, name)))];
        if (matched.Length == 0 && !model.AdaptableModules.Any(module => module.Path.Length > 0 && IsTarget(config, module.Path) && !IsExcluded(config, module.Path)))
        {
            throw new PeftException("NoModuleMatched", $"No parameter of the model matches target_parameters ({string.Join(", ", names)}).")
            {
                Target = names,
                RecommendedAction = "Name parameters as the model's tree does, such as mlp.experts.gate_up_proj.",
            };
        }

        foreach (var idle in names.Where(name => !Array.Exists(matched, match => EndsWith(match.Path, name))))
        {
            messages.Add($"target_parameters names '{idle}', which matches no parameter.");
        }

        return matched;
    }

    /// <summary>The modules named in <c>modules_to_save</c>, in the model's order. A name matches every path that ends in it.</summary>
    public static IReadOnlyList<NamedModule> MatchSaved(IReadOnlyList<string> names, Module model) =>
    [
        .. from module in model.Descendants()
           let path = module.Path
           where path.Length > 0 && names.Any(name => path.EndsWith(name, StringComparison.Ordinal))
           select new NamedModule(path, module),
    ];

    /// <summary>Whether a path ends in one of the names, in the middle of a name part too, or matches the pattern.</summary>
    public static bool EndsIn(ModuleNames names, string path) => names.Pattern is { } pattern
        ? IsMatch(path, Whole(pattern), pattern)
        : names.Names!.Any(name => path.EndsWith(name, StringComparison.Ordinal));

    /// <summary>The value of the first key of a pattern table that matches a path in whole name parts, or the given one.</summary>
    /// <exception cref="PeftException"><c>TargetPatternInvalid</c>.</exception>
    public static T Lookup<T>(IReadOnlyDictionary<string, T> pattern, string path, T otherwise)
    {
        foreach (var (key, value) in pattern)
        {
            if (IsMatch(path, $@"\A(?:.*\.)?(?:{key})\z", key))
            {
                return value;
            }
        }

        return otherwise;
    }

    /// <summary>The keys of a configuration's fields that are tables by modules' names (<c>rank_pattern</c>).</summary>
    private static IEnumerable<(string Field, string Key)> PatternKeys(LayerwiseConfig config) =>
        from field in ConfigField.Of(config.GetType())
        where field.Name.EndsWith("_pattern", StringComparison.Ordinal)
        from key in field.Property.GetValue(config) switch
        {
            IReadOnlyDictionary<string, int> table => table.Keys,
            IReadOnlyDictionary<string, double> table => table.Keys,
            _ => [],
        }
        select (field.Name, key);

    private static ModuleNames AllLinear(LayerwiseConfig config, PretrainedModel model)
    {
        var head = model.OutputEmbeddings
            ?? (config.TaskType == "SEQ_CLS" ? ClassificationHeads.FirstOrDefault(name => model.Find(name) is not null) : null);
        var paths = model.AdaptableModules
            .Where(static module => module is Linear)
            .Select(static module => module.Path)
            .Where(path => path != head)
            .ToArray();

        // Short names where they mean exactly the same modules: the file stays readable.
        var shortNames = paths.Select(static path => path[(path.LastIndexOf('.') + 1)..]).Distinct(StringComparer.Ordinal).ToArray();
        var meant = model.AdaptableModules.Count(module => Array.Exists(shortNames, name => EndsWith(module.Path, name)));
        return ModuleNames.Of(meant == paths.Length ? shortNames : paths);
    }

    private static bool IsExcluded(LayerwiseConfig config, string path)
    {
        if (config.ModulesToSave is { } saved && saved.Any(name => IsMatch(path, $@"\A(?:.*\.)?(?:{name})(?:\..*)?\z", name)))
        {
            return true;
        }

        return config.ExcludeModules is { } exclude
            && (exclude.Pattern is { } pattern ? IsMatch(path, Whole(pattern), pattern) : exclude.Names!.Any(name => EndsWith(path, name)));
    }

    /// <summary>Whether a path is meant, whatever its layer.</summary>
    internal static bool IsNamed(string path, ModuleNames targets) =>
        targets.Pattern is { } pattern ? IsMatch(path, Whole(pattern), pattern) : targets.Names!.Any(name => EndsWith(path, name));

    private static bool IsTarget(LayerwiseConfig config, string path)
    {
        var targets = config.TargetModules!;

        // A module named by its whole path is meant whatever its layer.
        return targets.Names?.Contains(path) == true || (IsNamed(path, targets) && (targets.Pattern is not null || IsInLayers(config, path)));
    }

    private static bool IsInLayers(LayerwiseConfig config, string path)
    {
        if (config.LayersToTransform is not { Count: > 0 } layers)
        {
            return true;
        }

        var patterns = config.LayersPattern is { Count: > 0 } names
            ? names.Select(static name => $@"\A(?:.*?\.)?(?:{name})\.(?<idx>\d+)\.")
            : [@"\A.*?\.[^.]*\.(?<idx>\d+)\."];
        foreach (var pattern in patterns)
        {
            if (Run(path, pattern, pattern) is { Success: true } match)
            {
                return int.TryParse(match.Groups["idx"].ValueSpan, NumberStyles.None, CultureInfo.InvariantCulture, out var layer) && layers.Contains(layer);
            }
        }

        return false;
    }

    /// <summary>Whether a path is a name, or ends in it in whole name parts.</summary>
    internal static bool EndsWith(string path, string name) =>
        path.EndsWith(name, StringComparison.Ordinal) && (path.Length == name.Length || path[path.Length - name.Length - 1] == '.');

    private static string Whole(string pattern) => $@"\A(?:{pattern})\z";

    private static bool IsMatch(string path, string pattern, string given) => Run(path, pattern, given).Success;

    private static Match Run(string path, string pattern, string given)
    {
        try
        {
            // Python spells named groups (?P<name>...); the rest of what model folders use means the same here.
            return Regex.Match(path, pattern.Replace("(?P<", "(?<", StringComparison.Ordinal), RegexOptions.CultureInvariant, s_patternTime);
        }
        catch (Exception error) when (error is ArgumentException or RegexMatchTimeoutException)
        {
            throw new PeftException("TargetPatternInvalid", $"'{given}' can't be used as a regular expression for module names: {error.Message}", error) { Target = given };
        }
    }

    private static PeftException NothingMatched(LayerwiseConfig config, PretrainedModel model)
    {
        var targets = config.TargetModules!;
        if (targets.Names is { Count: 0 })
        {
            return new PeftException("NoModuleMatched", "The list of target modules is empty.") { RecommendedAction = "Name the modules to adapt, or give all-linear." };
        }

        var free = config with { ExcludeModules = null, ModulesToSave = null };
        if (model.AdaptableModules.Any(module => module.Path.Length > 0 && IsTarget(free, module.Path)))
        {
            return new PeftException(
                "AllTargetsExcluded",
                $"Every module that target_modules ({targets}) matches is left out by exclude_modules or trained in full by modules_to_save.")
            {
                Target = targets.ToString(),
            };
        }

        var layers = config.LayersToTransform is { } indices ? $" in the layers {string.Join(", ", indices)}" : "";
        var pattern = config.LayersPattern is { Count: > 0 } names ? $" (layers_pattern {string.Join(", ", names)})" : "";
        string[] there = [.. model.AdaptableModules.Where(static module => module.ClassName is "Linear" or "Conv1D").Select(static module => module.Name).Distinct().Take(MostNames)];
        var meant = string.Concat((targets.Names ?? []).Select(name => Spelling.DidYouMean(name, model.Descendants().Select(static module => module.Name).Append(ModuleNames.AllLinearWord))));
        meant += there.Length > 0 && meant.Length == 0 ? $" Its linear layers are {string.Join(", ", there)}." : "";
        return new PeftException("NoModuleMatched", $"No module of the model matches target_modules ({targets}){layers}{pattern}.{meant}")
        {
            Target = targets.ToString(),
            RecommendedAction = "Get-ModelModule lists the modules; a regular expression has to match the whole path.",
        };
    }
}

/// <summary>A module with its path.</summary>
/// <param name="Path">The path from the root.</param>
/// <param name="Module">The module.</param>
public readonly record struct NamedModule(string Path, Module Module);
