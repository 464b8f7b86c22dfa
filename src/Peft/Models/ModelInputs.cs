using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>What goes into a model, whatever kind it is.</summary>
public sealed record ModelInputs
{
    /// <summary>Token ids, int64 [rows, length] (an encoder-decoder's encoder).</summary>
    public Tensor? Ids { get; init; }

    /// <summary>Which part of a pair each token belongs to (with a prompt that is learnt too, of which type it is), int64 [rows, length]; null for all the first.</summary>
    public Tensor? TokenTypes { get; init; }

    /// <summary>The decoder's token ids, int64 [rows, decoder length]; null where there is no decoder beside an encoder.</summary>
    public Tensor? DecoderIds { get; init; }

    /// <summary>Vectors in place of the tokens', [rows · length, width]; in training known to the tape. Ids still say where rows end.</summary>
    public Tensor? Embeddings { get; init; }

    /// <summary>Images, [rows, channels, height, width].</summary>
    public Tensor? Pixels { get; init; }

    /// <summary>What the encoder gave in an earlier pass (generation runs it once); null to run it.</summary>
    public BackboneOutput? Encoded { get; init; }

    /// <summary>The ids.</summary>
    /// <exception cref="PeftException"><c>TokenIdsMissing</c>.</exception>
    public Tensor RequiredIds => Ids ?? throw new PeftException("TokenIdsMissing", "This model reads token ids, and was given none.");

    /// <summary>Token ids alone.</summary>
    public static implicit operator ModelInputs(Tensor ids) => FromTensor(ids);

    /// <summary>Token ids alone, int64 [rows, length].</summary>
    public static ModelInputs FromTensor(Tensor ids) => new() { Ids = ids };
}

/// <summary>What a pass through a backbone gave: hidden states with their geometry, and what was computed beside them.</summary>
/// <param name="Hidden">[rows · length, width].</param>
/// <param name="Rows">Number of rows.</param>
/// <param name="Length">Positions a row has in <paramref name="Hidden"/>, virtual ones included.</param>
public sealed record BackboneOutput(Tensor Hidden, long Rows, long Length)
{
    /// <summary>Positions in front of each row that a prompt method put there: no tokens, and without labels.</summary>
    public long VirtualLength { get; init; }

    /// <summary>What the hidden states were computed from.</summary>
    public ModelInputs Inputs { get; init; } = new();

    /// <summary>The embeddings and each layer's output, [rows · length, width] each, as transformers lists them; null unless <see cref="ForwardContext.KeepsHiddenStates"/>.</summary>
    public IReadOnlyList<Tensor>? HiddenStates { get; init; }

    /// <summary>Scores of experts by layer, [rows · length, experts]; empty without experts.</summary>
    public IReadOnlyList<Tensor> RouterLogits { get; init; } = [];

    /// <summary>A scalar that is added to the loss in training (balance between experts), known to the tape; null for none.</summary>
    public Tensor? AuxiliaryLoss { get; init; }

    /// <summary>What the encoder gave; null where there is none.</summary>
    public BackboneOutput? Encoded { get; init; }

    /// <summary>The pass as a head sees it: with the rows and positions of these hidden states.</summary>
    public ForwardContext In(ForwardContext context) => context with { Rows = Rows, Length = Length };

    /// <summary>Labels of tokens with <c>-100</c> for virtual tokens in front.</summary>
    /// <param name="labels">int64 [rows, tokens].</param>
    /// <returns>int64 [rows, <see cref="Length"/>].</returns>
    public Tensor Aligned(Tensor labels) => VirtualLength == 0
        ? labels
        : cat([full([Rows, VirtualLength], -100, labels.dtype, labels.device), labels], 1);

    /// <summary>The hidden states of each row's last position, [rows, width]; not for training.</summary>
    public Tensor LastPosition() => Length == 1 ? Hidden : Hidden.view(Rows, Length, -1).select(1, Length - 1);

    /// <summary>The same with every tensor in the caller's dispose scope.</summary>
    internal BackboneOutput MoveToOuterDisposeScope()
    {
        IEnumerable<Tensor?> tensors = [Hidden, AuxiliaryLoss, .. HiddenStates ?? [], .. RouterLogits];
        foreach (var tensor in tensors)
        {
            tensor?.MoveToOuterDisposeScope();
        }

        Encoded?.MoveToOuterDisposeScope();
        return this;
    }
}
