using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Session;
using Peft.Generation;

namespace Peft.Cmdlets.Arguments;

/// <summary>Adapters by the names that a user gives: whatever their case, with wildcards.</summary>
internal static class AdapterNames
{
    /// <summary>The adapters that names stand for, in the order of the names, each once.</summary>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>: a name or a wildcard fits none.</exception>
    public static IReadOnlyList<PeftAdapter> Resolve(PeftModel model, IEnumerable<string> names) =>
        [.. names.SelectMany(name => Find(model, name) is { Count: > 0 } found ? found : [model[name]]).Distinct()];

    /// <summary>The adapters that a name stands for: the one that is written so, else those that are alike but for case or match the wildcard.</summary>
    public static IReadOnlyList<PeftAdapter> Find(PeftModel model, string name) =>
        model.Adapters.FirstOrDefault(adapter => adapter.Name == name) is { } exact
            ? [exact]
            : [.. model.Adapters.Where(adapter => LoadedModels.Matches(name, adapter.Name))];

    /// <summary>Whether a name stands for the model without any adapter.</summary>
    public static bool IsBase(PeftModel model, string name) =>
        name.Equals(OutputComparison.BaseName, StringComparison.OrdinalIgnoreCase) && Find(model, name).Count == 0;
}
