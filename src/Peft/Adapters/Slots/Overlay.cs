using Peft.Models;

namespace Peft.Adapters.Slots;

/// <summary>
/// An adapter's own copy of a parameter of the base, which replaces it while the adapter acts: modules to save, trained biases,
/// tuned norms, base weights that came inside an adapter file.
/// </summary>
/// <param name="Targets">The parameters it replaces: one, or several that share their weights.</param>
/// <param name="Copy">The adapter's copy.</param>
/// <param name="Kind">Why it is there.</param>
public sealed record Overlay(IReadOnlyList<OverlayTarget> Targets, Parameter Copy, OverlayKind Kind);

/// <summary>A parameter that an overlay replaces.</summary>
/// <param name="Path">Path of the module that holds it.</param>
/// <param name="Key">The rest of its key in an adapter file, such as <c>weight</c> or <c>base_layer.bias</c>.</param>
/// <param name="Module">The module that holds it.</param>
/// <param name="Parameter">The base's parameter.</param>
public sealed record OverlayTarget(string Path, string Key, Module Module, Parameter Parameter);

/// <summary>Why an adapter has a copy of a parameter.</summary>
public enum OverlayKind
{
    /// <summary>The module was named in <c>modules_to_save</c> and is trained in full.</summary>
    SavedModule,

    /// <summary>A bias that <c>bias = all</c> or <c>lora_only</c> trains.</summary>
    Bias,

    /// <summary>A module that the method itself tunes in full.</summary>
    TunedModule,

    /// <summary>A weight that an adapter file brought along and that isn't trained.</summary>
    BroughtAlong,
}
