using static TorchSharp.torch;

namespace Peft.Training.Optimizers;

/// <summary>How LoRA+ (Hayou et al. 2024) groups parameters: B learns faster than A, embeddings at a rate of their own.</summary>
internal static class LoraPlus
{
    /// <summary>
    /// Needs <c>loraplus_lr_ratio</c>; <c>loraplus_lr_embedding</c> is 1e-6, <c>loraplus_weight_decay</c> 0. Every one-dimensional parameter goes with B.
    /// </summary>
    public static GroupSettings Group(TrainedParameter trained, OptimizerSettings settings)
    {
        var ratio = settings.Own.Number("loraplus_lr_ratio")
            ?? throw new PeftException("TrainingOptionInvalid", "The optimiser 'loraplus' needs loraplus_lr_ratio among its options: the rate of B over that of A.")
            {
                Target = "loraplus_lr_ratio",
                RecommendedAction = "Put loraplus_lr_ratio into optim_args; 16 is usual.",
            };
        var embedding = settings.Own.Number("loraplus_lr_embedding") ?? 1e-6;
        var decay = settings.Own.Number("loraplus_weight_decay") ?? 0;
        var rate = settings.Training.LearningRate;
        if (trained.Name.Contains("lora_embedding_", StringComparison.Ordinal))
        {
            return new GroupSettings(embedding, decay);
        }

        return trained.Name.Contains("lora_B", StringComparison.Ordinal) || trained.Parameter.Shape.Count == 1
            ? new GroupSettings(rate * ratio, WeightDecay.Spares(trained) ? 0 : decay)
            : new GroupSettings(rate, decay);
    }
}

/// <summary>
/// Riemannian preconditioning (Zhang and Pilanci 2024): before AdamW, A's gradient is multiplied by (BᵀB + reg·I)⁻¹ and B's by (AAᵀ + reg·I)⁻¹;
/// <c>reg</c> is 0.01.
/// </summary>
internal sealed class Riemannian : AdamW
{
    private readonly (FlatEntry A, FlatEntry B)[] _pairs;
    private readonly double _damping;

    public Riemannian(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters, settings)
    {
        _damping = settings.Own.Number("reg") ?? 1e-2;
        var byName = parameters.Entries.ToDictionary(static entry => entry.Trained.Name, StringComparer.Ordinal);
        _pairs =
        [
            .. from a in parameters.Entries
               where a.Trained.Name.Contains(".lora_A.", StringComparison.Ordinal) && a.Trained.Parameter.Shape.Count == 2
               let b = byName.GetValueOrDefault(a.Trained.Name.Replace(".lora_A.", ".lora_B.", StringComparison.Ordinal))
               where b is not null && b.Trained.Parameter.Shape.Count == 2
               select (a, b),
        ];
    }

    /// <inheritdoc/>
    protected override void Update(double factor)
    {
        foreach (var (a, b) in _pairs)
        {
            using var scope = NewDisposeScope();
            var forA = Inverse(b.Value.t().mm(b.Value));
            var forB = Inverse(a.Value.mm(a.Value.t()));
            a.Gradient.copy_(forA.mm(a.Gradient));
            b.Gradient.copy_(b.Gradient.mm(forB));
        }

        base.Update(factor);
    }

    private Tensor Inverse(Tensor gram) => linalg.inv(gram.add(eye(gram.shape[0], gram.shape[0], gram.dtype, gram.device), alpha: _damping));
}
