using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Adamss;

/// <summary>
/// The clusters of one layer: those outputs of cluster i get Bᵢ Aᵢ V [x, 1], with the weight's leading singular vectors V over its inputs, and over its bias where it has one.
/// </summary>
internal sealed class AdamssLayer : LayerAdapter
{
    private readonly AdamssConfig _config;
    private readonly Parameter _vectors;

    // Where each output stands among those of all clusters, one behind the other. It is never saved.
    private readonly Parameter _order;

    /// <summary>Makes the parameters. Their shapes are the clusters', which the weight decides; of a structure without weights all clusters are of one size.</summary>
    public AdamssLayer(IAdaptable layer, AdamssConfig config)
        : base(layer)
    {
        _config = config;
        var width = layer.Inputs + (layer.Bias is null ? 0 : 1);
        var rank = Math.Min(config.Rank, Math.Min(layer.Outputs, width));
        _vectors = new Parameter("adamss_newB", [rank, width]);
        using var scope = NewDisposeScope();
        var rows = layer.Weight.IsLoaded ? Decompose().Rows : null;
        var clusters = rows is null ? EvenClusters() : RowClusters.Of(rows, config.SubspaceCount);
        Subspaces = [.. clusters.Select(cluster => new Subspace(
            cluster, new Parameter("A", [RankOf(rows, cluster), rank]), new Parameter("B", [cluster.Length, RankOf(rows, cluster)])))];

        var order = new long[layer.Outputs];
        foreach (var (place, output) in Subspaces.SelectMany(static subspace => subspace.Outputs).Index())
        {
            order[output] = place;
        }

        _order = new Parameter("order", [layer.Outputs], ScalarType.Int64);
        if (layer.Weight.IsLoaded)
        {
            _order.Assign(tensor(order, device: layer.Device).MoveToOuterDisposeScope());
        }

        Parameters =
        [
            .. Subspaces.Select(static (subspace, i) => new LayerParameter(FormattableString.Invariant($"adamss_A.{i}"), subspace.A)),
            .. Subspaces.Select(static (subspace, i) => new LayerParameter(FormattableString.Invariant($"adamss_B.{i}"), subspace.B)),
            new("adamss_newB", _vectors, ParameterRole.Frozen),
        ];
    }

    /// <summary>What the clusters have.</summary>
    public IReadOnlyList<Subspace> Subspaces { get; }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override IEnumerable<Parameter> Reads(ForwardContext context) => Subspaces.SelectMany(static subspace => (Parameter[])[subspace.A, subspace.B]);

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        using var scope = NewDisposeScope();
        var (rows, vectors) = Decompose();
        _vectors.Assign(vectors.contiguous().MoveToOuterDisposeScope());
        foreach (var subspace in Subspaces)
        {
            using var outputs = tensor(subspace.Outputs, device: rows.device);
            var part = rows.index_select(0, outputs);
            var leading = SingularVectors.Leading(part.mm(part.t()), subspace.A.Shape[0], 2, generator).U;
            subspace.A.Assign(linalg.qr(part.t().mm(leading)).Q.t().contiguous().MoveToOuterDisposeScope());
            subspace.B.Assign((_config.Initialisation == "orthogonal"
                ? RandomTensors.Zeros(subspace.B.Shape, Layer.Device)
                : RandomTensors.Normal(subspace.B.Shape, 0.01, generator, Layer.Device)).MoveToOuterDisposeScope());
        }
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var (weight, bias, outputs) = Factors(y.dtype);
        return y + (Layer.Project(Layer.Apply(x, weight, bias), outputs) * call.Weight);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var (weight, bias, outputs) = Factors(current.Weight.dtype);
        current.Weight.add_(Layer.FromMatrix(outputs.mm(weight)));
        current.Bias?.add_(outputs.mv(bias!));
        return current;
    }

    /// <inheritdoc/>
    private protected override void Release() => _order.Release();

    /// <summary>All clusters' factors as those of one change: what reads the inputs [ranks, in] and [ranks], and what makes the outputs [out, ranks].</summary>
    private (Tensor Weight, Tensor? Bias, Tensor Outputs) Factors(ScalarType type)
    {
        var reading = cat([.. Subspaces.Select(static subspace => subspace.A.Data)], 0).mm(_vectors.Data).to(type);
        var outputs = block_diag([.. Subspaces.Select(static subspace => subspace.B.Data)]).index_select(0, _order.Data).to(type);
        return Layer.Bias is null ? (reading, null, outputs) : (reading.narrow(1, 0, Layer.Inputs), reading.select(1, Layer.Inputs), outputs);
    }

    /// <summary>The leading singular vectors of the weight with its bias for a last column: [out, rank] and [rank, in].</summary>
    private (Tensor Rows, Tensor Vectors) Decompose()
    {
        var weight = Layer.ToMatrix(Layer.Weight.Unpacked(ScalarType.Float32));
        var all = Layer.Bias is { } bias ? cat([weight, bias.Data.to(ScalarType.Float32).unsqueeze(1)], 1) : weight;
        using var seeded = new Generator((ulong)_config.RandomSeed);
        var (u, _, vh) = SingularVectors.Leading(all, _vectors.Shape[0], 2, seeded);
        return (u, vh);
    }

    private long RankOf(Tensor? rows, long[] cluster)
    {
        var most = Math.Min(cluster.Length, _config.SubspaceRank);
        if (rows is null || !_config.UsesDynamicRank)
        {
            return most;
        }

        using var outputs = tensor(cluster, device: rows.device);
        var part = rows.index_select(0, outputs);
        var values = linalg.svdvals(part.mm(part.t()));
        return Math.Max(1, Math.Min(most, values.gt(values[0] * _config.Threshold).sum().item<long>()));
    }

    private long[][] EvenClusters()
    {
        var count = (int)Math.Min(_config.SubspaceCount, Layer.Outputs);
        return [.. Enumerable.Range(0, count).Select(i => (First: i * Layer.Outputs / count, End: (i + 1) * Layer.Outputs / count))
            .Select(static part => Enumerable.Range((int)part.First, (int)(part.End - part.First)).Select(static output => (long)output).ToArray())];
    }
}

/// <summary>A cluster of a layer's outputs, and the change that it learns.</summary>
/// <param name="Outputs">Numbers of the outputs, ascending.</param>
/// <param name="A">[rank, singular vectors].</param>
/// <param name="B">[outputs, rank].</param>
internal sealed record Subspace(long[] Outputs, Parameter A, Parameter B);
