using System.Management.Automation;
using Peft.Adapters.Model;

namespace Peft.Cmdlets.Session;

/// <summary>
/// The models of this process, for Get-PeftModel and for completion. It doesn't keep a model alive: one that no variable holds any more
/// is freed like any other object, and Remove-PeftModel frees its weights at once.
/// </summary>
internal static class LoadedModels
{
    private static readonly Lock s_gate = new();
    private static readonly List<WeakReference<PeftModel>> s_entries = [];

    /// <summary>The models that are loaded, in the order of loading.</summary>
    public static IReadOnlyList<PeftModel> All
    {
        get
        {
            lock (s_gate)
            {
                s_entries.RemoveAll(static entry => !entry.TryGetTarget(out _));
                return [.. s_entries.Select(static entry => entry.TryGetTarget(out var model) ? model : null).OfType<PeftModel>()];
            }
        }
    }

    /// <summary>Adds a model.</summary>
    public static void Add(PeftModel model)
    {
        lock (s_gate)
        {
            s_entries.Add(new(model));
        }
    }

    /// <summary>Takes a model off the list.</summary>
    public static void Remove(PeftModel model)
    {
        lock (s_gate)
        {
            s_entries.RemoveAll(entry => !entry.TryGetTarget(out var other) || ReferenceEquals(other, model));
        }
    }

    /// <summary>Models whose name matches one of these wildcards.</summary>
    public static IEnumerable<PeftModel> Named(params IReadOnlyList<string> patterns) =>
        All.Where(model => patterns.Any(pattern => Matches(pattern, model.Name)));

    /// <summary>The error for a name that no model has.</summary>
    public static PeftException NotFound(string name) => new("ModelNotFound", $"No model named '{name}' is loaded.")
    {
        Target = name,
        RecommendedAction = "Import-PeftModel loads one; Get-PeftModel without a name lists those that are loaded.",
    };

    /// <summary>Whether a name matches a wildcard, whatever its case.</summary>
    public static bool Matches(string pattern, string name) =>
        new WildcardPattern(pattern, WildcardOptions.IgnoreCase | WildcardOptions.CultureInvariant).IsMatch(name);
}
