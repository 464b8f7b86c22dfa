using Peft.Adapters.Methods;
using Peft.Models;

namespace Peft.Adapters.Targets;

/// <summary>Which methods adapt a module when a configuration names none.</summary>
public static class DefaultMethods
{
    /// <summary>The methods by the paths of the modules that they adapt in a model by default, in the order of their names; modules that none does are not there.</summary>
    /// <param name="model">The model.</param>
    public static IReadOnlyDictionary<string, IReadOnlyList<string>> Of(PretrainedModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        var type = model.Config.ModelType;
        string[] paths = [.. model.AdaptableModules.Select(static module => module.Path).Where(static path => path.Length > 0)];

        // Most methods share their targets with others.
        var found = from method in AdapterMethods.Names
                    let config = AdapterMethods.ConfigOf(method)
                    where typeof(LayerwiseConfig).IsAssignableFrom(config)
                    let targets = ((LayerwiseConfig)Activator.CreateInstance(config)!).DefaultTargetModules.GetValueOrDefault(type)
                    where targets is not null
                    group method by targets into alike
                    from path in paths
                    where TargetMatcher.IsNamed(path, alike.Key)
                    from method in alike
                    select (Path: path, Method: method);
        return found.GroupBy(static entry => entry.Path, static entry => entry.Method, StringComparer.Ordinal)
            .ToDictionary(static entry => entry.Key, static entry => (IReadOnlyList<string>)Values.Of(entry.Order(StringComparer.Ordinal)), StringComparer.Ordinal);
    }
}
