using System.Management.Automation;
using System.Text.RegularExpressions;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Session;
using Peft.Models;
using ModelNode = Peft.Models.Module;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>Get-ModelModule: the modules of a model, which is what an adapter attaches to.</summary>
[Cmdlet(VerbsCommon.Get, "ModelModule")]
[OutputType(typeof(ModelModule), typeof(ModelModuleSummary), typeof(string))]
public sealed partial class GetModelModuleCommand : ModelCommand
{
    /// <summary>Paths or last names to list, such as <c>model.layers.0.*</c> or <c>q_proj</c>; wildcards are allowed. Without it all modules are listed.</summary>
    [Parameter(Position = 0)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(ModulePathCompleter))]
    [ValidateNotNullOrEmpty]
    public string[] Name { get; set; } = ["*"];

    /// <summary>Kinds of modules to list, such as <c>Linear</c> or <c>Embedding</c>; wildcards are allowed.</summary>
    [Parameter]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(ModuleKindCompleter))]
    [ValidateNotNullOrEmpty]
    public string[] Kind { get; set; } = ["*"];

    /// <summary>Puts modules that repeat from layer to layer together in one line.</summary>
    [Parameter]
    public SwitchParameter Summary { get; set; }

    /// <summary>Puts the whole tree out as one text, as PyTorch prints it.</summary>
    [Parameter]
    public SwitchParameter Tree { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        if (Tree)
        {
            WriteObject(ModuleText.Print(Model.Base));
            return;
        }

        foreach (var name in Name.Where(name => !WildcardPattern.ContainsWildcardCharacters(name) && !Model.Base.Descendants().Any(module => IsNamed(module, name))))
        {
            WriteError(new PeftException("ModuleNotFound", $"The model '{Model.Name}' has no module '{name}'.")
            {
                Target = name,
                RecommendedAction = "Get-ModelModule -Summary lists the names there are.",
            });
        }

        var modules = Model.Base.Descendants()
            .Where(module => Kind.Any(kind => LoadedModels.Matches(kind, module.ClassName)) && Name.Any(name => IsNamed(module, name)))
            .Select(Describe)
            .ToList();
        if (Summary)
        {
            WriteObject(Summarise(modules), enumerateCollection: true);
        }
        else
        {
            WriteObject(modules, enumerateCollection: true);
        }
    }

    private static bool IsNamed(ModelNode module, string name) => LoadedModels.Matches(name, module.Path) || LoadedModels.Matches(name, module.Name);

    private ModelModule Describe(ModelNode module) => new(
        module.Path,
        module.Name,
        module.ClassName,
        module.Parameters.FirstOrDefault(static parameter => parameter.Name == "weight") is { } weight ? Values.Of(weight.Shape) : Values.Of<long>([]),
        module.CountParameters(),
        Values.Of(Model.Adapters.Where(adapter => adapter.AdaptedModules.Contains(module.Path, StringComparer.Ordinal)).Select(static adapter => adapter.Name)));

    private static IEnumerable<ModelModuleSummary> Summarise(IEnumerable<ModelModule> modules) =>
        from module in modules
        group module by (Path: LayerIndex().Replace(module.Path, "*"), module.Kind, Shape: string.Join('×', module.Shape)) into alike
        select new ModelModuleSummary(
            alike.First().Name,
            alike.Key.Kind,
            alike.Count(),
            alike.First().Shape,
            alike.Sum(static module => module.ParameterCount),
            alike.Key.Path,
            Values.Of(alike.SelectMany(static module => module.Adapters).Distinct(StringComparer.Ordinal)));

    [GeneratedRegex(@"(?<=^|\.)\d+(?=\.|$)", RegexOptions.None, matchTimeoutMilliseconds: 1000)]
    private static partial Regex LayerIndex();
}

/// <summary>A module of a model.</summary>
/// <param name="Path">Full name, such as <c>model.layers.0.self_attn.q_proj</c>; empty for the model itself.</param>
/// <param name="Name">Last part of the path: what <c>-TargetModule</c> takes.</param>
/// <param name="Kind">What it is, such as <c>Linear</c>, by transformers' class name.</param>
/// <param name="Shape">Sizes of its weight, outermost first; empty where it has none of its own.</param>
/// <param name="ParameterCount">Parameters at or below it.</param>
/// <param name="Adapters">Names of the adapters on it.</param>
public sealed record ModelModule(string Path, string Name, string Kind, IReadOnlyList<long> Shape, long ParameterCount, IReadOnlyList<string> Adapters)
{
    /// <inheritdoc/>
    public override string ToString() => Path;
}

/// <summary>Modules of a model that are alike but for the layer they are in.</summary>
/// <param name="Name">Last part of the path: what <c>-TargetModule</c> takes.</param>
/// <param name="Kind">What they are, such as <c>Linear</c>.</param>
/// <param name="Count">How many there are.</param>
/// <param name="Shape">Sizes of each one's weight, outermost first.</param>
/// <param name="ParameterCount">Parameters of all of them.</param>
/// <param name="Path">Their path with <c>*</c> for the layer.</param>
/// <param name="Adapters">Names of the adapters on any of them.</param>
public sealed record ModelModuleSummary(string Name, string Kind, int Count, IReadOnlyList<long> Shape, long ParameterCount, string Path, IReadOnlyList<string> Adapters)
{
    /// <inheritdoc/>
    public override string ToString() => Path;
}
