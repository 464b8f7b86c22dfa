namespace Peft.Training.Diffusion;

/// <summary>Where a training keeps what the encoders of a diffusion model make of images and captions, so that others needn't ask them again.</summary>
/// <param name="Folder">The folder; it is made when something is written.</param>
public sealed record EncoderCacheOptions(string Folder)
{
    /// <summary>Whether what isn't there yet is written; otherwise the folder is only read.</summary>
    public bool Writes { get; init; } = true;
}
