using System.Management.Automation;
using System.Text.RegularExpressions;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
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

        var facts = new ModuleFacts(Model);
        var modules = Model.Base.Descendants()
            .Where(module => Kind.Any(kind => LoadedModels.Matches(kind, module.ClassName)) && Name.Any(name => IsNamed(module, name)))
            .Select(facts.Describe)
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

/// <summary>What is the same for all modules of a model that are described.</summary>
internal sealed class ModuleFacts(PeftModel model)
{
    private readonly IReadOnlyDictionary<string, IReadOnlyList<string>> _methods = DefaultMethods.Of(model.Base);

    private readonly (string Path, long Count)[] _trained =
    [
        .. model.Adapters.Where(static adapter => adapter.IsActive).SelectMany(static adapter => adapter.TrainableParameters)
            .Select(static parameter => (parameter.Module?.Path ?? "", parameter.Parameter.Count)),
    ];

    public ModelModule Describe(ModelNode module)
    {
        var weight = module.Parameters.FirstOrDefault(static parameter => parameter.Name == "weight");
        var first = weight ?? module.NamedParameters().Select(static named => named.Parameter).FirstOrDefault();
        return new(
            module.Path,
            module.Name,
            module.ClassName,
            weight is null ? Values.Of<long>([]) : Values.Of(weight.Shape),
            module.CountParameters(),
            Values.Of(model.Adapters.Where(adapter => adapter.AdaptedModules.Contains(module.Path, StringComparer.Ordinal)).Select(static adapter => adapter.Name)))
        {
            TrainableCount = _trained.Where(entry => module.Path.Length == 0 || entry.Path == module.Path || entry.Path.StartsWith(module.Path + ".", StringComparison.Ordinal)).Sum(static entry => entry.Count),
            DataType = first is null ? null : first.Packed?.Kind ?? first.DataType.ToString().ToLowerInvariant(),
            Device = first?.Device.ToString(),
            DefaultMethods = _methods.GetValueOrDefault(module.Path) ?? Values.Of<string>([]),
        };
    }
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
    /// <summary>Parameters that training changes at or below it: those of the active adapters.</summary>
    public long TrainableCount { get; init; }

    /// <summary>Type of its weights, such as <c>bfloat16</c> or <c>nf4</c>: of its own, or of the first below it; null where it has none.</summary>
    public string? DataType { get; init; }

    /// <summary>Device that computes with them; null where it has none.</summary>
    public string? Device { get; init; }

    /// <summary>PEFT's names of the methods that adapt it where a configuration names no modules.</summary>
    public required IReadOnlyList<string> DefaultMethods { get; init; }

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
