using System.Management.Automation;
using Peft.Adapters.Targets;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>What the cmdlets that make an adapter's configuration share: which modules it acts on and what else is trained.</summary>
public abstract class NewAdapterConfigCommand : PeftCmdlet
{
    /// <summary>Characters that no module's name has and that a regular expression mostly has.</summary>
    private static readonly System.Buffers.SearchValues<char> PatternCharacters = System.Buffers.SearchValues.Create("*+?^$|()[]{}\\");

    /// <summary>
    /// Modules to adapt: a name such as <c>q_proj</c>, the ending of a path such as <c>self_attn.q_proj</c>, or <c>all-linear</c> for every
    /// linear layer but the output head. Without it, the default modules of the model's family are taken.
    /// </summary>
    [Parameter(Position = 0)]
    [Alias("target_modules")]
    [ArgumentCompleter(typeof(TargetModuleCompleter))]
    [ValidateNotNullOrEmpty]
    public string[]? TargetModule { get; set; }

    /// <summary>A regular expression that a module's whole path has to match, in place of <c>-TargetModule</c>.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public string? TargetPattern { get; set; }

    /// <summary>Modules to leave out although they are targeted, by name or ending of the path.</summary>
    [Parameter]
    [Alias("exclude_modules")]
    [ArgumentCompleter(typeof(TargetModuleCompleter))]
    [ValidateNotNullOrEmpty]
    public string[]? ExcludeModule { get; set; }

    /// <summary>Indices of the layers to adapt, counted from 0. Without it all layers are.</summary>
    [Parameter]
    [Alias("layers_to_transform", "LayersToTransform")]
    [ValidateRange(0, int.MaxValue)]
    public int[]? LayerIndex { get; set; }

    /// <summary>Name of the list of layers in module paths, such as <c>layers</c> or <c>h</c>, where <c>-LayerIndex</c> would otherwise be ambiguous.</summary>
    [Parameter]
    [Alias("layers_pattern")]
    [ValidateNotNullOrEmpty]
    public string[]? LayersPattern { get; set; }

    /// <summary>Modules that are trained in full and saved with the adapter, such as <c>lm_head</c> or <c>embed_tokens</c>.</summary>
    [Parameter]
    [Alias("modules_to_save", "ModuleToSave")]
    [ValidateNotNullOrEmpty]
    public string[]? ModulesToSave { get; set; }

    /// <summary>What the model is for, as PEFT spells it.</summary>
    [Parameter]
    [Alias("task_type")]
    [ValidateSet("CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")]
    [PSDefaultValue(Value = "CAUSAL_LM", Help = "CAUSAL_LM")]
    public string TaskType { get; set; } = "CAUSAL_LM";

    /// <summary>The modules that <c>-TargetModule</c> or <c>-TargetPattern</c> name; null for the family's defaults.</summary>
    /// <exception cref="PeftException"><c>TargetModuleInvalid</c> or <c>ParametersContradict</c>.</exception>
    private protected ModuleNames? Targets()
    {
        if (TargetPattern is not null && TargetModule is not null)
        {
            throw new PeftException("ParametersContradict", "-TargetModule and -TargetPattern can't both say which modules are adapted.")
            {
                Target = nameof(TargetPattern),
                RecommendedAction = "Leave one of them out.",
            };
        }

        return TargetPattern is not null ? ModuleNames.Matching(TargetPattern) : Names(TargetModule, nameof(TargetModule));
    }

    /// <summary>The modules that <c>-ExcludeModule</c> names.</summary>
    private protected ModuleNames? Exclusions() => Names(ExcludeModule, nameof(ExcludeModule));

    private static ModuleNames? Names(string[]? names, string parameter)
    {
        if (names is null)
        {
            return null;
        }

        if (Array.Find(names, static name => name.AsSpan().ContainsAny(PatternCharacters)) is { } pattern)
        {
            throw new PeftException("TargetModuleInvalid", $"'{pattern}' is no name of a module.")
            {
                Target = pattern,
                RecommendedAction = parameter == nameof(TargetModule)
                    ? "Give a regular expression with -TargetPattern; it has to match a module's whole path."
                    : "Name the modules, or choose what is targeted with -TargetPattern.",
            };
        }

        return names is [var only] && only.Equals("all-linear", StringComparison.OrdinalIgnoreCase) ? ModuleNames.AllLinear : ModuleNames.Of(names);
    }
}
