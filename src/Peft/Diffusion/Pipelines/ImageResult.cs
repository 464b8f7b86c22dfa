namespace Peft.Diffusion.Pipelines;

/// <summary>A picture that was written.</summary>
/// <param name="Path">The file.</param>
/// <param name="Prompt">What it was asked to show.</param>
/// <param name="Seed">Repeats it.</param>
/// <param name="Width">Pixels in a row.</param>
/// <param name="Height">Rows.</param>
/// <param name="Steps">Steps that it took.</param>
/// <param name="Parameters">The settings as they stand in the file.</param>
/// <param name="Time">How long it took.</param>
public sealed record ImageResult(string Path, string Prompt, ulong Seed, int Width, int Height, int Steps, string Parameters, TimeSpan Time)
{
    /// <summary>What it was asked not to show.</summary>
    public string? NegativePrompt { get; init; }
}
