using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora.DataStarts;

/// <summary>Principal components of rows that come in batches (incremental PCA, Ross et al. 2008): what was seen before counts as its components, stretched by their values.</summary>
/// <param name="count">How many components.</param>
internal sealed class IncrementalComponents(int count) : IDisposable
{
    private Tensor? _mean;
    private double _spread;
    private long _seen;

    /// <summary>[count, features], the first largest; null before the first batch.</summary>
    public Tensor? Components { get; private set; }

    /// <summary>Singular values of the components, [count].</summary>
    public Tensor? Values { get; private set; }

    /// <summary>Share of the variance that each component explains.</summary>
    public double[] Ratios { get; private set; } = [];

    /// <summary>Whether each component's direction stayed what it was in the last batch, as far as the threshold asks.</summary>
    public bool[] Settled { get; } = new bool[count];

    /// <summary>Takes a batch in. One with fewer rows than components is passed over.</summary>
    /// <param name="rows">[rows, features].</param>
    /// <param name="threshold">Cosine from which a direction has stayed.</param>
    public void Add(Tensor rows, double threshold)
    {
        if (rows.size(0) < count)
        {
            return;
        }

        using var scope = NewDisposeScope();
        var (x, total) = (rows.to(ScalarType.Float32), _seen + rows.size(0));
        var own = x.to(ScalarType.Float64).mean([0]);
        var centred = x - own.to(ScalarType.Float32);
        _spread += centred.to(ScalarType.Float64).square().sum().item<double>();
        if (Components is not null)
        {
            var distance = _mean! - own;
            _spread += distance.square().sum().item<double>() * _seen * x.size(0) / total;
            centred = cat(
                [Values!.unsqueeze(1) * Components, centred, (distance * Math.Sqrt((double)_seen / total * x.size(0))).to(ScalarType.Float32).unsqueeze(0)], 0);
        }

        var (_, s, vh) = StartRun.Leading(centred, count);

        // A direction keeps its sign from batch to batch: that of its largest entry.
        vh = vh.narrow(0, 0, Math.Min(count, vh.size(0)));
        vh *= vh.gather(1, vh.abs().argmax(1, keepdim: true)).sign();
        s = s.narrow(0, 0, vh.size(0));
        if (Components is not null)
        {
            var likeness = nn.functional.cosine_similarity(vh, Components, 1).data<float>().ToArray();
            for (var i = 0; i < likeness.Length; i++)
            {
                Settled[i] = likeness[i] >= threshold;
            }
        }

        Ratios = [.. s.data<float>().ToArray().Select(value => (double)value * value / _spread)];
        Keep((_mean is null ? own : ((_mean * _seen) + (own * x.size(0))) / total).MoveToOuterDisposeScope(), vh.contiguous().MoveToOuterDisposeScope(), s.clone().MoveToOuterDisposeScope());
        _seen = total;
    }

    /// <inheritdoc/>
    public void Dispose() => Free();

    private void Keep(Tensor mean, Tensor components, Tensor values)
    {
        Free();
        (_mean, Components, Values) = (mean.DetachFromDisposeScope(), components.DetachFromDisposeScope(), values.DetachFromDisposeScope());
    }

    private void Free()
    {
        _mean?.Dispose();
        Components?.Dispose();
        Values?.Dispose();
    }
}
