using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lycoris;

/// <summary>
/// LyCORIS's T-LoRA: change = alpha / rank · (P diag(λ) Q - P₀ diag(λ₀) Q₀), which starts from the weight's leading singular vectors. The start isn't in files:
/// it is computed from the weight again.
/// </summary>
internal sealed class SingularLora : MatrixLayer
{
    private readonly double _scale;
    private readonly TimestepMask? _mask;
    private readonly Parameter[] _factors;
    private readonly Parameter[] _start;

    /// <summary>Makes the factors, by shape alone: Q [rank, in], P [out, rank] and λ [1, rank].</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="rank">Ranks.</param>
    /// <param name="scale">Multiplies the change.</param>
    /// <param name="mask">Which ranks act at a timestep; null for all of them.</param>
    public SingularLora(IAdaptable layer, int rank, double scale, TimestepMask? mask = null)
        : base(layer)
    {
        (_scale, _mask) = (scale, mask);
        long[] ones = [.. layer.Kernel.Select(static _ => 1L)];
        Parameter[] Make() => [new("weight", [rank, layer.Inputs, .. ones]), new("weight", [layer.Outputs, rank, .. ones]), new("lambda_layer", [1, rank])];
        (_factors, _start) = (Make(), Make());
        string[] keys = ["q_layer.weight", "p_layer.weight", "lambda_layer"], starts = ["base_q", "base_p", "base_lambda"];
        Parameters =
        [
            .. keys.Select((key, index) => new LayerParameter(key, _factors[index])),
            .. starts.Select((key, index) => new LayerParameter(key, _start[index], ParameterRole.Derived)),
        ];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        if (_mask is null || call.Context.Noise is not { } noise)
        {
            return base.After(x, y, call);
        }

        // Rows of one timestep, as in generating, go together.
        var rank = (int)_factors[2].Shape[1];
        int[] active = [.. noise.Timesteps.Select(timestep => _mask.Active(timestep, noise.Count, rank))];
        return active.Distinct().Count() == 1 ? y + Masked(x, active[0])
            : y + cat([.. x.chunk(active.Length).Zip(active, Masked)]);

        Tensor Masked(Tensor rows, int ranks) => Layer.Apply(rows, Layer.FromMatrix(((Product(_factors, ranks) - Product(_start, ranks)) * (_scale * call.Weight)).to(y.dtype)), null);
    }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        using var scope = NewDisposeScope();
        var rank = (int)_factors[2].Shape[1];
        var (u, s, vh) = linalg.svd(Layer.ToMatrix(Layer.Weight.Unpacked(ScalarType.Float32)), fullMatrices: false);
        Tensor[] parts = [Padded(vh, 0), Padded(u, 1), Padded(s, 0)];
        foreach (var some in new[] { _factors, _start })
        {
            for (var i = 0; i < parts.Length; i++)
            {
                some[i].Assign(parts[i].view([.. some[i].Shape]).clone());
            }
        }

        // A rank above the weight's own has nothing to start from.
        Tensor Padded(Tensor all, int dimension)
        {
            var missing = rank - all.size(dimension);
            if (missing <= 0)
            {
                return all.narrow(dimension, 0, rank).contiguous();
            }

            long[] shape = [.. all.shape];
            shape[dimension] = missing;
            return cat([all, zeros(shape, device: all.device)], dimension);
        }
    }

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare) => ((Product(_factors) - Product(_start)) * _scale).to(type);

    private static Tensor Product(Parameter[] factors, int? ranks = null)
    {
        var (p, lengths, q) = (factors[1].Data.flatten(1), factors[2].Data, factors[0].Data.flatten(1));
        return ranks is { } count ? (p.narrow(1, 0, count) * lengths.narrow(1, 0, count)).mm(q.narrow(0, 0, count)) : (p * lengths).mm(q);
    }
}
