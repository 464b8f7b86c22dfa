using Peft.Diffusion;
using static TorchSharp.torch;

namespace Peft.Training.Diffusion;

/// <summary>Images of one size in latents, with their captions; behind them, where there are any, as many that keep the class as it is.</summary>
/// <param name="InputIds">Tokens of the captions for the first text encoder, int64 [rows, length].</param>
/// <param name="Latents">Means of the latents, [rows, channels, height, width].</param>
public sealed record DiffusionBatch(Tensor InputIds, Tensor Latents) : TrainingBatch(InputIds, Latents)
{
    /// <summary>Tokens for the other text encoders, int64 [rows, length] each.</summary>
    public IReadOnlyList<Tensor> MoreIds { get; init; } = [];

    /// <summary>Deviations of the latents, of their shape, from which each pass draws; null to take the means.</summary>
    public Tensor? Deviations { get; init; }

    /// <summary>What the text encoders made of the captions, where these aren't trained; null to ask them.</summary>
    public TextCondition? Text { get; init; }

    /// <summary>The same of no caption, [1, …].</summary>
    public TextCondition? EmptyText { get; init; }

    /// <summary>Tokens of no caption for each text encoder, int64 [1, length]; empty where captions are never dropped.</summary>
    public IReadOnlyList<Tensor> EmptyIds { get; init; } = [];

    /// <summary>Sizes and cuts that SDXL is told, [rows, 6]; null elsewhere.</summary>
    public Tensor? Sizes { get; init; }

    /// <summary>Rows at the end that keep the class as it is.</summary>
    public long PriorRows { get; init; }

    /// <summary>The noise to add, of the latents' shape; null to draw it.</summary>
    public Tensor? Noise { get; init; }

    /// <summary>The timestep of each row; null to draw them.</summary>
    public IReadOnlyList<int>? Timesteps { get; init; }

    /// <summary>Tokens for each text encoder.</summary>
    public IReadOnlyList<Tensor> Ids => [InputIds, .. MoreIds];

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        foreach (var tensor in new[] { Deviations, Text?.States, Text?.Pooled, EmptyText?.States, EmptyText?.Pooled, Sizes, Noise }.Concat(MoreIds).Concat(EmptyIds))
        {
            tensor?.Dispose();
        }
    }
}
