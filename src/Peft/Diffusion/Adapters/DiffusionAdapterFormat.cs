namespace Peft.Diffusion.Adapters;

/// <summary>The formats in which adapters of diffusion models are passed around.</summary>
public enum DiffusionAdapterFormat
{
    /// <summary>kohya's scripts and the web UI: LoRA, on convolutions and with a core too, and DoRA on it, with an alpha for each module. SDXL's UNet has the names of the original checkpoints' blocks.</summary>
    Kohya,

    /// <summary>LyCORIS: all of its algorithms, by diffusers' blocks.</summary>
    LyCORIS,

    /// <summary>diffusers (<c>pytorch_lora_weights.safetensors</c>): LoRA, and DoRA by outputs. Alpha is folded into the factors, so that every reader has the right scale; a core is multiplied out.</summary>
    Diffusers,
}

/// <summary>What came of writing an adapter in a format.</summary>
/// <param name="Path">The file.</param>
/// <param name="Format">Its format.</param>
/// <param name="Modules">How many modules it holds.</param>
/// <param name="Lost">What the format can't hold.</param>
/// <param name="Messages">What else changed on the way.</param>
public sealed record AdapterFormatReport(string Path, DiffusionAdapterFormat Format, int Modules, IReadOnlyList<AdapterFormatLoss> Lost, IReadOnlyList<string> Messages)
{
    /// <inheritdoc/>
    public override string ToString() => FormattableString.Invariant($"{Modules} modules in {System.IO.Path.GetFileName(Path)} ({Format})")
        + (Lost.Count == 0 ? "; nothing is lost." : FormattableString.Invariant($"; {Lost.Count} are lost: ") + string.Join("; ", Lost.GroupBy(static loss => loss.Reason).Select(static group => FormattableString.Invariant($"{group.Count()} ({group.First().Module}…): {group.Key}"))) + ".");
}

/// <summary>What a format can't hold of one module, or a tensor that belongs to none.</summary>
/// <param name="Module">The module's path, or the tensor's name.</param>
/// <param name="Reason">Why not.</param>
public sealed record AdapterFormatLoss(string Module, string Reason);
