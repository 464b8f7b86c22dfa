using Peft.Models;

namespace Peft.Adapters;

/// <summary>What becomes of a parameter of an adapter.</summary>
public enum ParameterRole
{
    /// <summary>Trained and saved.</summary>
    Trained,

    /// <summary>Saved, never trained: shared projections, what the base was at the start.</summary>
    Frozen,

    /// <summary>Neither: it can be made again from the configuration or the base. A file that has it all the same is believed.</summary>
    Derived,

    /// <summary>Whole numbers that say where something acts; saved, never trained.</summary>
    Index,
}

/// <summary>A parameter of an adapter with its place in the file.</summary>
/// <param name="FullKey">Its full name, which is its key in the file unless <see cref="FileKey"/> says otherwise, such as <c>base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight</c>.</param>
/// <param name="Parameter">The parameter.</param>
/// <param name="Role">What becomes of it.</param>
/// <param name="Module">The module of the base it belongs to, or null for what layers share.</param>
public readonly record struct AdapterParameter(string FullKey, Parameter Parameter, ParameterRole Role = ParameterRole.Trained, Module? Module = null)
{
    /// <summary>The key in the file where that is another than the name; null for what is trained and never in a file, which holds what it computes instead.</summary>
    public string? FileKey { get; init; } = FullKey;

    /// <summary>What multiplies the change that it is a factor of.</summary>
    public double Scale { get; init; } = 1;

    /// <summary>Whether an adapter's file has it.</summary>
    public bool IsSaved => FileKey is not null && Role != ParameterRole.Derived;

    /// <inheritdoc/>
    public override string ToString() => FullKey;
}
