using Peft.Quantization;
using static TorchSharp.torch;

namespace Peft.Training.Optimizers;

/// <summary>
/// bitsandbytes' optimisers (Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization), in its CPU arithmetic: what they remember of a parameter
/// is quantised by blocks of 256 between steps, that of small parameters stays float32. Kinds of 32 bits quantise nothing; paged ones keep it in the
/// processor's memory wherever the parameters are.
/// </summary>
internal abstract class BlockwiseOptimizer : Optimizer
{
    private const int BlockSize = 256;
    private const long SmallestQuantized = 4096;
    private readonly bool _isQuantized;
    private readonly bool _isPaged;
    private readonly (string Name, DynamicMap Map)[] _memories;

    /// <summary>Takes over the parameters.</summary>
    /// <param name="parameters">What is trained.</param>
    /// <param name="form">How what is remembered is kept.</param>
    /// <param name="memories">What is remembered of a parameter: its name, and whether it may be negative.</param>
    protected BlockwiseOptimizer(FlatParameters parameters, MemoryForm form, params (string Name, bool IsSigned)[] memories)
        : base(parameters)
    {
        (_isQuantized, _isPaged) = (form.Bits == 8, form.IsPaged);
        _memories = [.. memories.Select(static memory => (memory.Name, memory.IsSigned ? DynamicMap.Signed : DynamicMap.Unsigned))];
        var device = _isPaged ? CPU : Parameters.Values.device;
        foreach (var entry in Parameters.Entries)
        {
            var count = entry.Trained.Parameter.Count;
            foreach (var (name, _) in _memories)
            {
                Remember(Key(entry, name), IsQuantized(entry) ? ScalarType.Byte : ScalarType.Float32, device, count);
                if (IsQuantized(entry))
                {
                    Remember(ScaleKey(entry, name), ScalarType.Float32, device, (count + BlockSize - 1) / BlockSize);
                }
            }
        }
    }

    /// <inheritdoc/>
    protected sealed override void Update(double factor)
    {
        foreach (var entry in Parameters.Entries)
        {
            using var scope = NewDisposeScope();
            Tensor[] memories = [.. _memories.Select(memory => Recall(entry, memory.Name, memory.Map))];
            Update(entry.Value.view(-1), entry.Gradient.view(-1), memories, entry.Settings.Rate * factor, entry.Settings.WeightDecay);
            for (var i = 0; i < memories.Length; i++)
            {
                Keep(entry, _memories[i].Name, _memories[i].Map, memories[i]);
            }
        }
    }

    /// <inheritdoc/>
    protected sealed override void Update(ParameterSlice slice, double rate, double weightDecay) => throw new InvalidOperationException("Parameters are changed one by one.");

    /// <summary>Changes one parameter.</summary>
    /// <param name="value">Its weights, flat.</param>
    /// <param name="gradient">Its gradient, which may be overwritten.</param>
    /// <param name="memories">What is remembered, float32, to be changed in place.</param>
    /// <param name="rate">Its learning rate in this step.</param>
    /// <param name="weightDecay">Its weight decay.</param>
    protected abstract void Update(Tensor value, Tensor gradient, Tensor[] memories, double rate, double weightDecay);

    private static string Key(FlatEntry entry, string memory) => $"{entry.Trained.Name}.{memory}";

    private static string ScaleKey(FlatEntry entry, string memory) => $"{entry.Trained.Name}.{memory}.absmax";

    private bool IsQuantized(FlatEntry entry) => _isQuantized && entry.Trained.Parameter.Count >= SmallestQuantized;

    private Tensor Recall(FlatEntry entry, string name, DynamicMap map)
    {
        var stored = State[Key(entry, name)];
        var values = IsQuantized(entry) ? map.Dequantize(stored.cpu(), State[ScaleKey(entry, name)].cpu(), BlockSize) : stored.alias();
        return values.to(entry.Value.device);
    }

    private void Keep(FlatEntry entry, string name, DynamicMap map, Tensor values)
    {
        if (IsQuantized(entry))
        {
            var (codes, scales) = map.Quantize(values, BlockSize);
            State[Key(entry, name)].copy_(codes);
            State[ScaleKey(entry, name)].copy_(scales);
        }
        else if (_isPaged)
        {
            State[Key(entry, name)].copy_(values);
        }
    }
}

/// <summary>How an optimiser keeps what it remembers.</summary>
/// <param name="Bits">8 or 32.</param>
/// <param name="IsPaged">Whether it is kept in the processor's memory.</param>
internal sealed record MemoryForm(int Bits, bool IsPaged = false);

/// <summary>AdamW, to which bitsandbytes' Adam is the same: its weight decay is decoupled too.</summary>
internal sealed class BlockwiseAdamW(FlatParameters parameters, OptimizerSettings settings, MemoryForm form)
    : BlockwiseOptimizer(parameters, form, ("state1", true), ("state2", false))
{
    private readonly (double First, double Second) _betas = settings.Betas;
    private readonly double _epsilon = settings.Epsilon(settings.Training.Epsilon);

    /// <inheritdoc/>
    protected override void Update(Tensor value, Tensor gradient, Tensor[] memories, double rate, double weightDecay)
    {
        var (mean, square) = (memories[0], memories[1]);
        mean.mul_(_betas.First).add_(gradient, alpha: 1 - _betas.First);
        square.mul_(_betas.Second).addcmul_(gradient, gradient, value: 1 - _betas.Second);
        var denominator = square.sqrt().div_(Math.Sqrt(1 - Math.Pow(_betas.Second, StepCount))).add_(_epsilon);
        value.mul_(1 - (rate * weightDecay)).addcdiv_(mean, denominator, value: -rate / (1 - Math.Pow(_betas.First, StepCount)));
    }
}

/// <summary>AdEMAMix (Pagliardini et al. 2024): a second, slow mean of gradients (<c>beta3</c>, 0.9999) that counts <c>alpha</c> (5) times.</summary>
internal sealed class BlockwiseAdEMAMix(FlatParameters parameters, OptimizerSettings settings, MemoryForm form)
    : BlockwiseOptimizer(parameters, form, ("state1", true), ("state1_slow", true), ("state2", false))
{
    private readonly (double First, double Second) _betas = settings.Betas;
    private readonly double _slow = settings.Own.Number("beta3") ?? 0.9999;
    private readonly double _alpha = settings.Own.Number("alpha") ?? 5;
    private readonly double _epsilon = settings.Epsilon(settings.Training.Epsilon);

    /// <inheritdoc/>
    protected override void Update(Tensor value, Tensor gradient, Tensor[] memories, double rate, double weightDecay)
    {
        var (mean, slow, square) = (memories[0], memories[1], memories[2]);
        mean.mul_(_betas.First).add_(gradient, alpha: 1 - _betas.First);
        slow.mul_(_slow).add_(gradient, alpha: 1 - _slow);
        square.mul_(_betas.Second).addcmul_(gradient, gradient, value: 1 - _betas.Second);
        var denominator = square.sqrt().div_(Math.Sqrt(1 - Math.Pow(_betas.Second, StepCount))).add_(_epsilon);
        var direction = mean.div(1 - Math.Pow(_betas.First, StepCount)).add_(slow, alpha: _alpha).div_(denominator);
        value.mul_(1 - (rate * weightDecay)).add_(direction, alpha: -rate);
    }
}

/// <summary>Lion (Chen et al. 2023): the sign of a mean of gradients, with decoupled weight decay.</summary>
internal sealed class BlockwiseLion(FlatParameters parameters, OptimizerSettings settings, MemoryForm form)
    : BlockwiseOptimizer(parameters, form, ("state1", true))
{
    private readonly (double First, double Second) _betas = settings.Betas;

    /// <inheritdoc/>
    protected override void Update(Tensor value, Tensor gradient, Tensor[] memories, double rate, double weightDecay)
    {
        var direction = memories[0].mul(_betas.First).add_(gradient, alpha: 1 - _betas.First).sign_();
        value.mul_(1 - (rate * weightDecay)).add_(direction, alpha: -rate);
        memories[0].mul_(_betas.Second).add_(gradient, alpha: 1 - _betas.Second);
    }
}

/// <summary>Gradient descent with <c>momentum</c> (0.9); weight decay is part of the gradient.</summary>
internal sealed class BlockwiseSgd(FlatParameters parameters, OptimizerSettings settings, MemoryForm form)
    : BlockwiseOptimizer(parameters, form, ("state1", true))
{
    private readonly double _momentum = settings.Own.Number("momentum") ?? 0.9;

    /// <inheritdoc/>
    protected override void Update(Tensor value, Tensor gradient, Tensor[] memories, double rate, double weightDecay)
    {
        // The first gradient enters whole: nothing is remembered before.
        gradient.add_(value, alpha: weightDecay);
        value.add_(memories[0].mul_(_momentum).add_(gradient), alpha: -rate);
    }
}

/// <summary>RMSprop (Hinton 2012) with <c>alpha</c> (0.99); weight decay is part of the gradient. Its squares are quantised as if they might be negative, as the peer's.</summary>
internal sealed class BlockwiseRmsProp(FlatParameters parameters, OptimizerSettings settings, MemoryForm form)
    : BlockwiseOptimizer(parameters, form, ("state1", true))
{
    private readonly double _alpha = settings.Own.Number("alpha") ?? 0.99;
    private readonly double _epsilon = settings.Epsilon(1e-8);

    /// <inheritdoc/>
    protected override void Update(Tensor value, Tensor gradient, Tensor[] memories, double rate, double weightDecay)
    {
        gradient.add_(value, alpha: weightDecay);
        memories[0].mul_(_alpha).addcmul_(gradient, gradient, value: 1 - _alpha);
        value.addcdiv_(gradient, memories[0].sqrt().add_(_epsilon), value: -rate);
    }
}
