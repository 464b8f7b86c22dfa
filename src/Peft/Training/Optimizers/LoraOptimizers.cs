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

/// <summary>
/// LoRA-FA (Zhang et al. 2023): A stays as it is, and B's gradient is the one that brings the change of the weight nearest to what full training would do:
/// multiplied by (AAᵀ)⁻¹ over the square of the adapter's scale. Then Adam, and decay after the step; other parameters have Adam alone.
/// </summary>
internal sealed class LoraFrozenA : Optimizer
{
    // PEFT's numbers.
    private const double Damping = 1e-8;
    private const double DefaultEpsilon = 1e-6;

    private readonly double _beta1;
    private readonly double _beta2;
    private readonly double _epsilon;
    private readonly bool _corrects;
    private readonly Tensor _mean;
    private readonly Tensor _square;
    private readonly (FlatEntry B, TrainedParameter A)[] _pairs;

    public LoraFrozenA(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters)
    {
        (_beta1, _beta2) = settings.Betas;
        _epsilon = settings.Epsilon(DefaultEpsilon);
        _corrects = settings.Own.Flag("correct_bias") ?? true;

        // PEFT's function asks for them; here each layer knows its own.
        _ = (settings.Own.Number("r"), settings.Own.Number("lora_alpha"));
        _mean = Remember("exp_avg");
        _square = Remember("exp_avg_sq");
        var byName = settings.Parameters.DistinctBy(static trained => trained.Name).ToDictionary(static trained => trained.Name, StringComparer.Ordinal);
        _pairs =
        [
            .. from b in parameters.Entries
               where b.Trained.Name.Contains(".lora_B.", StringComparison.Ordinal) && b.Trained.Parameter.Shape.Count == 2
               let a = byName.GetValueOrDefault(b.Trained.Name.Replace(".lora_B.", ".lora_A.", StringComparison.Ordinal))
               where a is not null && a.Parameter.Shape.Count == 2 && a.Parameter.Shape[0] == b.Trained.Parameter.Shape[1]
               select (b, a),
        ];
    }

    /// <summary>Whether a parameter is trained: A is not.</summary>
    public static bool Trains(TrainedParameter trained) => !trained.Name.Contains(".lora_A.", StringComparison.Ordinal);

    /// <inheritdoc/>
    protected override void Update(double factor)
    {
        foreach (var (b, a) in _pairs)
        {
            using var scope = NewDisposeScope();
            var factors = a.Parameter.Data.to(ScalarType.Float32);
            var gram = factors.mm(factors.t());
            var inverse = linalg.pinv(gram.add(eye(gram.shape[0], gram.shape[0], gram.dtype, gram.device), alpha: Damping));
            b.Gradient.copy_(b.Gradient.mm(inverse).div_(b.Trained.Scale * b.Trained.Scale));
        }

        base.Update(factor);
    }

    /// <inheritdoc/>
    protected override void Update(ParameterSlice slice, double rate, double weightDecay)
    {
        var gradient = slice.Gradient;
        var first = slice.Of(_mean).mul_(_beta1).add_(gradient, alpha: 1 - _beta1);
        var second = slice.Of(_square).mul_(_beta2).addcmul_(gradient, gradient, value: 1 - _beta2);
        var step = _corrects ? rate * Math.Sqrt(1 - Math.Pow(_beta2, StepCount)) / (1 - Math.Pow(_beta1, StepCount)) : rate;
        slice.Value.addcdiv_(first, second.sqrt().add_(_epsilon), value: -step);
        if (weightDecay != 0)
        {
            slice.Value.mul_(1 - (rate * weightDecay));
        }
    }
}
