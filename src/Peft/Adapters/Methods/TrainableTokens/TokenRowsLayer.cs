using Peft.Adapters.Files;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.TrainableTokens;

/// <summary>The adapter's own vectors of some tokens, which replace those of an embedding or of an output layer.</summary>
/// <param name="layer">The layer: its weight has a row a token.</param>
/// <param name="indices">The tokens.</param>
/// <param name="rows">Their vectors, [tokens, width]; layers that share their weight share them.</param>
/// <param name="key">Key of the vectors below the layer's path.</param>
/// <param name="isSaved">Whether the file has the vectors under this layer's path.</param>
/// <param name="startsRandom">Whether the vectors start at random, for tests.</param>
internal sealed class TokenRowsLayer(IAdaptable layer, IReadOnlyList<int> indices, Parameter rows, string key, bool isSaved = true, bool startsRandom = false) : LayerAdapter(layer)
{
    /// <summary>The tokens.</summary>
    public IReadOnlyList<int> Indices => indices;

    /// <summary>Their vectors, [tokens, width].</summary>
    public Parameter Rows => rows;

    /// <inheritdoc/>
    public override bool RowSelectable => true;

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; } = [new(key, rows) { IsSaved = isSaved }];

    /// <inheritdoc/>
    public override IEnumerable<Parameter> Reads(ForwardContext context) => Layer.Bias is { } bias ? base.Reads(context).Append(bias.Effective(context)) : base.Reads(context);

    /// <summary>Makes the vectors of a layer, by shape alone.</summary>
    /// <exception cref="PeftException"><c>TokenOutOfRange</c>.</exception>
    public static Parameter Vectors(IAdaptable layer, IReadOnlyList<int> indices)
    {
        foreach (var id in indices.Where(id => id < 0 || id >= layer.Weight.Shape[0]))
        {
            throw new PeftException("TokenOutOfRange", $"Token {id} does not exist: '{layer.Path}' has {layer.Weight.Shape[0]} tokens.")
            {
                Target = id,
                RecommendedAction = $"Give ids that the model's tokenizer gives. {AdapterFile.TokensFirst}",
            };
        }

        return new Parameter("trainable_tokens_delta", [indices.Count, layer.Weight.Shape[1]]);
    }

    /// <inheritdoc/>
    public override void Initialise(Generator generator) => rows.Assign(startsRandom
        ? RandomTensors.Normal(rows.Shape, 1, generator, Layer.Device)
        : Layer.Weight.Unpacked(ScalarType.Float32).index_select(0, Ids(Layer.Device)));

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        if (indices.Count == 0)
        {
            return y;
        }

        var vectors = rows.Data.to(y.dtype);
        return Layer.Module is Embedding embedding ? OfTokens(embedding, x, y, vectors, call) : OfLogits(x, y, vectors, call);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        current.Weight.index_copy_(0, Ids(current.Weight.device), rows.Data.to(current.Weight.dtype));
        return current;
    }

    private static Tensor OfTokens(Embedding embedding, Tensor ids, Tensor y, Tensor vectors, Tensor wanted, float weight)
    {
        var hits = ids.unsqueeze(-1).eq(wanted);
        var own = embedding.Scaled(vectors.index_select(0, hits.to(ScalarType.Int32).argmax(-1)));
        return where(hits.any(-1, keepdim: true), weight == 1f ? own : y + ((own - y) * weight), y);
    }

    private Tensor OfTokens(Embedding embedding, Tensor ids, Tensor y, Tensor vectors, SlotCall call) =>
        OfTokens(embedding, ids, y, vectors, Ids(ids.device), call.Weight);

    private Tensor OfLogits(Tensor x, Tensor y, Tensor vectors, SlotCall call)
    {
        var ids = Ids(y.device);
        var own = x.mm(vectors.t());
        own = BareBias(call, y.dtype) is { } bias ? own + bias.index_select(0, ids) : own;
        var theirs = y.index_select(1, ids);
        return y.index_copy(1, ids, call.Weight == 1f ? own : theirs + ((own - theirs) * call.Weight));
    }

    private Tensor Ids(Device device) => tensor([.. indices.Select(static id => (long)id)], device: device);
}
