using static TorchSharp.torch;

namespace Peft.Models.Gguf;

/// <summary>How rows of gate and up stand in a parameter whose file holds each as a tensor of its own.</summary>
internal enum GgufPairs
{
    /// <summary>All of the gate's, of each expert, then what it gates.</summary>
    Halves,

    /// <summary>One of each in turn.</summary>
    InTurn,
}

/// <summary>How a parameter's values stand in files, as matrices [outputs, inputs] whatever the parameter's own layout.</summary>
/// <param name="ToFile">The values as the file's tensors hold them.</param>
/// <param name="ToTree">The way back.</param>
internal sealed record GgufLayout(Func<Tensor, ModelConfig, IReadOnlyList<Tensor>> ToFile, Func<IReadOnlyList<Tensor>, ModelConfig, Tensor> ToTree)
{
    /// <summary>Whether it only puts whole rows in another order: what acts on values then acts on a row's bytes, and on an adapter's second factor, too.</summary>
    public bool MovesRows { get; private init; }

    /// <summary>How it joins rows of the file's tensors to those of the parameter's matrices [outputs, inputs], by their bytes, and the way back; null where that is what it does to values, or nothing.</summary>
    public (Func<IReadOnlyList<Tensor>, Tensor> Join, Func<Tensor, IReadOnlyList<Tensor>> Cut)? Blocks { get; private init; }

    /// <summary>How it joins gate and up, which may have blocks of a type each; null where it joins no such.</summary>
    public GgufPairs? Pairs { get; private init; }

    /// <summary>Whether rows stay whole, as blocks of a row have to.</summary>
    public bool HoldsRows => MovesRows || Blocks is not null;

    /// <summary>Whether it only cuts rows apart, or turns matrices: what acts on values then acts on an adapter's second factor, too, as if it had the rank's number of inputs.</summary>
    public bool KeepsInputs { get; private init; }

    /// <summary>Whether adapters of two factors have a place beside what it makes.</summary>
    public bool HasFactors => MovesRows || KeepsInputs || MovesColumns;

    /// <summary>Whether it only puts whole columns in another order: what acts on values then acts on an adapter's first factor, too.</summary>
    public bool MovesColumns { get; private init; }

    /// <summary>Shapes of the file's tensors, by the parameter's; null where they are the parameter's.</summary>
    public Func<IReadOnlyList<long>, ModelConfig, IReadOnlyList<IReadOnlyList<long>>>? Shapes { get; init; }

    /// <summary>As they are.</summary>
    public static GgufLayout Plain { get; } = Rows(static (values, _) => values, static (values, _) => values);

    /// <summary>Plus the one that a norm adds itself.</summary>
    public static GgufLayout PlusOne { get; } = Values(static (values, _) => values.to(ScalarType.Float32) + 1, static (values, _) => values - 1);

    /// <summary>[channels, 1, width of a convolution] without the one.</summary>
    public static GgufLayout Convolution { get; } = Values(
        static (values, _) => values.squeeze(1), static (values, _) => values.unsqueeze(1), static shape => [shape[0], shape[2]]);

    /// <summary>A vector as a column.</summary>
    public static GgufLayout Column { get; } = Values(static (values, _) => values.unsqueeze(1), static (values, _) => values.squeeze(1), static shape => [shape[0], 1]);

    /// <summary>A single row as a vector.</summary>
    public static GgufLayout Vector { get; } = Values(static (values, _) => values.squeeze(0), static (values, _) => values.unsqueeze(0), static shape => [shape[1]]);

    /// <summary>Matrices of experts that lie the other way round.</summary>
    public static GgufLayout Turned { get; } = Values(
        static (values, _) => values.transpose(1, 2).contiguous(), static (values, _) => values.transpose(1, 2).contiguous(), static shape => [shape[0], shape[2], shape[1]]) with { KeepsInputs = true, Blocks = (static parts => parts[0], static rows => [rows]) };

    /// <summary>Of each expert the gate, then what it gates: two tensors.</summary>
    public static GgufLayout GateAndUp { get; } = new(static (values, _) => [.. values.chunk(2, 1).Select(static part => part.contiguous())], static (parts, _) => cat([.. parts], 1))
    {
        Shapes = static (shape, _) => Twice([shape[0], shape[1] / 2, .. shape.Skip(2)]),
        KeepsInputs = true,
        Blocks = (static parts => cat([.. parts], 1), static rows => rows.chunk(2, 1)),
        Pairs = GgufPairs.Halves,
    };

    /// <summary>Rows of the gate, then of what it gates: two tensors.</summary>
    public static GgufLayout Halves { get; } = new(static (values, _) => [.. values.chunk(2, 0).Select(static part => part.contiguous())], static (parts, _) => cat([.. parts], 0))
    {
        Shapes = static (shape, _) => Twice([shape[0] / 2, .. shape.Skip(1)]),
        KeepsInputs = true,
        Blocks = (static parts => cat([.. parts], 0), static rows => rows.chunk(2, 0)),
        Pairs = GgufPairs.Halves,
    };

    /// <summary>Of each expert gate and up in turn along the last dimension, lying the other way round: two tensors.</summary>
    public static GgufLayout GateUpPairs { get; } = new(
        static (values, _) => [.. Enumerable.Range(0, 2).Select(part => Last(values.view([.. values.shape[..^1], values.shape[^1] / 2, 2]).select(values.dim(), part)))],
        static (parts, _) => stack(parts.Select(Last), -1).flatten(-2))
    {
        Shapes = static (shape, _) => Twice(shape.Count == 3 ? [shape[0], shape[2] / 2, shape[1]] : [shape[0], shape[1] / 2]),
        KeepsInputs = true,
        Blocks = (static parts => stack(parts, 2).flatten(1, 2), static rows => rows.view(rows.size(0), -1, 2, rows.size(2)).unbind(2)),
        Pairs = GgufPairs.InTurn,
    };

    /// <summary>Rows of heads in which neighbours turn together in files, and rows half a head apart in the tree.</summary>
    /// <param name="headsKey">Key of the number of heads.</param>
    public static GgufLayout Neighbours(string headsKey) => Rows(
        (values, config) => Paired(values, Heads(config, headsKey), toFile: true), (values, config) => Paired(values, Heads(config, headsKey), toFile: false));

    /// <summary>Queries, keys and values of a group one behind the other in the tree; all queries, then all keys, then all values in files.</summary>
    /// <param name="sizes">Number of query heads, and of groups.</param>
    public static GgufLayout ByGroup(Func<ModelConfig, (long Heads, long Groups)> sizes) => Rows(
        (values, config) =>
        {
            var (heads, groups) = sizes(config);
            var each = heads / groups;
            var whole = values.view(groups, each + 2, values.size(0) / (heads + (2 * groups)), -1);
            return cat([.. new[] { (0L, each), (each, 1L), (each + 1, 1L) }.Select(part => whole.narrow(1, part.Item1, part.Item2).flatten(0, 2))], 0).view(values.shape);
        },
        (values, config) =>
        {
            var (heads, groups) = sizes(config);
            var size = values.size(0) / (heads + (2 * groups));
            long start = 0;
            var parts = new List<Tensor>();
            foreach (var each in new[] { heads / groups, 1, 1 })
            {
                parts.Add(values.narrow(0, start, groups * each * size).view(groups, each, size, -1));
                start += groups * each * size;
            }

            return cat(parts, 1).view(values.shape);
        });

    /// <summary>Whole rows in another order.</summary>
    public static GgufLayout Rows(Func<Tensor, ModelConfig, Tensor> toFile, Func<Tensor, ModelConfig, Tensor> toTree) => Values(toFile, toTree) with { MovesRows = true };

    /// <summary>Whole columns in another order.</summary>
    /// <param name="move">Values, the configuration, and whether it goes to the file.</param>
    public static GgufLayout Columns(Func<Tensor, ModelConfig, bool, Tensor> move) => Values((values, config) => move(values, config, true), (values, config) => move(values, config, false)) with { MovesColumns = true };

    /// <summary>One tensor of other values.</summary>
    public static GgufLayout Values(Func<Tensor, ModelConfig, Tensor> toFile, Func<Tensor, ModelConfig, Tensor> toTree, Func<IReadOnlyList<long>, IReadOnlyList<long>>? shape = null) =>
        new((values, config) => [toFile(values, config)], (parts, config) => toTree(parts[0], config))
        {
            Shapes = shape is null ? null : (own, _) => [shape(own)],
        };

    /// <summary>Several tensors of other shapes.</summary>
    public static GgufLayout Parts(
        Func<Tensor, ModelConfig, IReadOnlyList<Tensor>> toFile, Func<IReadOnlyList<Tensor>, ModelConfig, Tensor> toTree, Func<IReadOnlyList<long>, ModelConfig, IReadOnlyList<IReadOnlyList<long>>> shapes) =>
        new(toFile, toTree) { Shapes = shapes };

    /// <summary>Several tensors of whole rows, in another order than theirs.</summary>
    public static GgufLayout Cuts(
        Func<Tensor, ModelConfig, IReadOnlyList<Tensor>> toFile, Func<IReadOnlyList<Tensor>, ModelConfig, Tensor> toTree, Func<IReadOnlyList<long>, ModelConfig, IReadOnlyList<IReadOnlyList<long>>> shapes) =>
        Parts(toFile, toTree, shapes) with { KeepsInputs = true };

    private static Tensor Paired(Tensor values, long heads, bool toFile)
    {
        if (values.size(0) == 0 || values.size(0) % (2 * heads) != 0)
        {
            throw new PeftException("GgufHeadsInvalid", FormattableString.Invariant($"{heads} heads can't share {values.size(0)} rows of a query's or a key's weight in pairs."));
        }

        using var scope = NewDisposeScope();
        var half = values.size(0) / heads / 2;
        var view = toFile ? values.reshape(heads, 2, half, -1) : values.reshape(heads, half, 2, -1);
        return view.transpose(1, 2).contiguous().view(values.shape).MoveToOuterDisposeScope();
    }

    private static long Heads(ModelConfig config, string key) => config.Integer(key) ?? config.RequiredInteger("num_attention_heads");

    private static Tensor Last(Tensor values) => values.dim() == 3 ? values.transpose(1, 2).contiguous() : values.contiguous();

    private static IReadOnlyList<IReadOnlyList<long>> Twice(IReadOnlyList<long> shape) => [shape, shape];
}
