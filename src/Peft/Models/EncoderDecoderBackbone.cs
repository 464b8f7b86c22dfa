using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>An encoder or a decoder of a pair.</summary>
internal abstract class EncoderDecoderHalf(string className) : Module(className)
{
    /// <summary>Vectors of tokens before anything is added to them.</summary>
    public abstract Tensor Embed(Tensor ids, ForwardContext context);

    /// <summary>Runs the half.</summary>
    /// <param name="embeddings">[rows · length, width].</param>
    /// <param name="encoded">What the encoder gave; null in the encoder.</param>
    /// <param name="across">Who sees which of its positions.</param>
    /// <param name="context">The forward pass, as this half sees it.</param>
    public abstract BackboneOutput Forward(Tensor embeddings, Tensor? encoded, AttentionPlan? across, ForwardContext context);
}

/// <summary>An encoder and a decoder that reads what it gave. Its modules stand at the root of a model's tree.</summary>
internal abstract class EncoderDecoderBackbone : Backbone
{
    private readonly EncoderDecoderHalf _encoder;
    private readonly EncoderDecoderHalf _decoder;

    /// <summary>Joins two halves over one table of token vectors.</summary>
    /// <param name="source">The configuration.</param>
    /// <param name="words">The table, which both halves' own follow.</param>
    /// <param name="encoder">Reads the ids.</param>
    /// <param name="decoder">Reads decoder ids, and what the encoder gave.</param>
    protected EncoderDecoderBackbone(ModelConfig source, Embedding words, EncoderDecoderHalf encoder, EncoderDecoderHalf decoder)
        : base(source, source.Family.Stem + "Model")
    {
        TokenEmbeddings = Add("shared", words);
        _encoder = Add("encoder", encoder);
        _decoder = Add("decoder", decoder);
    }

    /// <inheritdoc/>
    public override Embedding TokenEmbeddings { get; }

    /// <inheritdoc/>
    public override IEnumerable<(string Owner, string Follower)> TiedParameters =>
        [("shared.weight", "encoder.embed_tokens.weight"), ("shared.weight", "decoder.embed_tokens.weight")];

    /// <inheritdoc/>
    public override Tensor Embed(ModelInputs inputs, ForwardContext context) => _encoder.Embed(inputs.RequiredIds, context);

    /// <inheritdoc/>
    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var pass = EncoderDecoderPass.Of(Config, inputs, context);
        var encoded = inputs.Encoded ?? _encoder.Forward(embeddings, null, null, pass.Encoder);
        var words = _decoder.Embed(pass.DecoderIds, pass.Decoder);
        var (placed, virtualLength, decoder) = PromptPlacement.PlaceDecoder(words, pass.Decoder);
        var across = AttentionPlan.Across(decoder, words.device, encoded.Length, pass.Encoder.AttentionMask);
        return _decoder.Forward(placed, encoded.Hidden, across, decoder) with { Encoded = encoded, VirtualLength = virtualLength };
    }
}
