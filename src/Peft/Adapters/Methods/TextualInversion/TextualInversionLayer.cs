using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.TextualInversion;

/// <summary>Vectors behind the last of a table of tokens. Their ids are those that a table with more rows would have, so that those of several inversions differ.</summary>
internal sealed class TextualInversionLayer : LayerAdapter
{
    /// <summary>Key of the vectors below the table's path.</summary>
    public const string Key = "vectors";

    private readonly Func<IReadOnlyList<int>> _startIds;

    /// <summary>Makes the vectors by shape alone.</summary>
    /// <param name="table">The table.</param>
    /// <param name="token">The word.</param>
    /// <param name="count">Number of vectors.</param>
    /// <param name="startIds">The tokens whose vectors a training begins with.</param>
    public TextualInversionLayer(Embedding table, string token, int count, Func<IReadOnlyList<int>> startIds)
        : base(table)
    {
        (Token, Count, _startIds) = (token, count, startIds);
        FirstId = (table.Weight.Slot as AdapterSlot)?.Layers.OfType<TextualInversionLayer>().Select(static other => other.FirstId + other.Count).DefaultIfEmpty().Max() is > 0 and var next ? next : (int)table.Count;
        Vectors = new Parameter(Key, [count, table.Size]);
        Parameters = [new(Key, Vectors)];
    }

    /// <summary>The word.</summary>
    public string Token { get; }

    /// <summary>Number of vectors.</summary>
    public int Count { get; }

    /// <summary>Id of the first vector; those of the others follow it.</summary>
    public int FirstId { get; }

    /// <summary>[vectors, width].</summary>
    public Parameter Vectors { get; }

    /// <summary>Ids beyond the table are none of its own.</summary>
    /// <inheritdoc/>
    public override bool ChangesInput => true;

    /// <inheritdoc/>
    public override string? MergeObstacle => "it adds a word and changes no weight; merge the others by name, and export it as a file";

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        var start = _startIds();
        using var ids = tensor([.. Enumerable.Range(0, Count).Select(i => (long)start[i % start.Count])], device: Layer.Device);
        Vectors.Assign(Layer.Weight.Unpacked(ScalarType.Float32).index_select(0, ids));
    }

    /// <inheritdoc/>
    public override Tensor Before(Tensor x, SlotCall call) => x.masked_fill(IsOwn(x), 0);

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var own = ((Embedding)Layer.Module).Scaled(Vectors.Data.to(y.dtype)).index_select(0, (x - FirstId).clamp(0, Count - 1));
        return where(IsOwn(x).unsqueeze(-1), call.Weight == 1f ? own : own * call.Weight, y);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare) => current;

    private Tensor IsOwn(Tensor ids) => ids.ge(FirstId).logical_and(ids.lt(FirstId + Count));
}
