using System.Collections.Frozen;
using Peft.Adapters.Asking;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>The rows of one micro batch on the model's device. Whoever asked for it disposes it.</summary>
/// <param name="InputIds">Token ids, int64 [rows, length].</param>
/// <param name="Labels">
/// What is learnt, -100 where nothing is. Of a model that continues text the token at each position, int64 [rows, length], learnt from the positions before it; of an encoder-decoder the
/// tokens that its decoder writes, int64 [rows, decoder length]; a label for each token, int64 [rows, length]; a class or a value for each row, [rows] or [rows, labels]; first and last token
/// of an answer, int64 [rows, 2].
/// </param>
public record TrainingBatch(Tensor InputIds, Tensor Labels) : IDisposable
{
    /// <summary>1 for tokens, 0 for padding, int64 [rows, length]; null when nothing is padded.</summary>
    public Tensor? AttentionMask { get; init; }

    /// <summary>Position of every token, int64 [rows, length]; null for 0, 1, ….</summary>
    public Tensor? Positions { get; init; }

    /// <summary>Which part of a pair each token belongs to, int64 [rows, length]; null for all the first.</summary>
    public Tensor? TokenTypes { get; init; }

    /// <summary>What a decoder beside an encoder reads, int64 [rows, decoder length]; null for the labels one position later.</summary>
    public Tensor? DecoderIds { get; init; }

    /// <summary>Which task each row is, int64 [rows]; null where nobody says.</summary>
    public Tensor? TaskIds { get; init; }

    /// <summary>Images in place of tokens, [rows, channels, height, width]; the ids say their positions alone. Null for tokens.</summary>
    public Tensor? Pixels { get; init; }

    /// <summary>In packed rows the lengths of the examples that stand in each row; null when a row is one example.</summary>
    public IReadOnlyList<IReadOnlyList<int>>? Packing { get; init; }

    /// <summary>Number of tokens that aren't padding; of images that a diffusion model learns from, their number.</summary>
    public required long TokenCount { get; init; }

    /// <summary>Number of labels that are learnt: those that aren't -100; of a model that continues text without the first of each row, which nothing precedes.</summary>
    public required long TargetCount { get; init; }

    /// <summary>What goes into the model.</summary>
    public ModelInputs Inputs => Pixels is not null ? new() { Pixels = Pixels } : new() { Ids = InputIds, TokenTypes = TokenTypes, DecoderIds = DecoderIds };

    /// <summary>A forward pass over these rows.</summary>
    /// <param name="context">What else the pass is.</param>
    public ForwardContext In(ForwardContext context) => context with
    {
        Rows = InputIds.size(0),
        Length = InputIds.size(1),
        AttentionMask = AttentionMask,
        Positions = Positions,
        Packing = Packing,
        TaskIds = TaskIds,
    };

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees the tensors.</summary>
    protected virtual void Dispose(bool disposing)
    {
        InputIds.Dispose();
        Labels.Dispose();
        AttentionMask?.Dispose();
        Positions?.Dispose();
        TokenTypes?.Dispose();
        DecoderIds?.Dispose();
        TaskIds?.Dispose();
        Pixels?.Dispose();
    }
}

/// <summary>Pairs of answers to the same prompt: the rows of all chosen ones, then in the same order those of the rejected ones. Or pairs of texts that are alike: all first ones, then all second ones, then those that are like none.</summary>
/// <param name="InputIds">Token ids, int64 [2 · pairs + negatives, length].</param>
/// <param name="Labels">The answers' tokens, -100 elsewhere, of the same shape.</param>
public sealed record PairBatch(Tensor InputIds, Tensor Labels) : TrainingBatch(InputIds, Labels)
{
    /// <summary>By how much each chosen answer is better, or how alike the texts of each pair are, float32 [pairs]; null where nobody said.</summary>
    public Tensor? Margins { get; init; }

    /// <summary>Number of texts behind the pairs that each first text is to be told from.</summary>
    public long Negatives { get; init; }

    /// <summary>Number of pairs.</summary>
    public long Pairs => (InputIds.size(0) - Negatives) / 2;

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        Margins?.Dispose();
    }
}

/// <summary>Answers that a model gave itself and that were rated.</summary>
/// <param name="InputIds">Token ids of prompts and answers, int64 [rows, length].</param>
/// <param name="Labels">The answers' tokens, -100 elsewhere, int64 [rows, length].</param>
/// <param name="Advantages">By how much each answer is better than the others to its prompt, float32 [rows].</param>
public sealed record RatedBatch(Tensor InputIds, Tensor Labels, Tensor Advantages) : TrainingBatch(InputIds, Labels)
{
    /// <summary>Negative log-likelihood of each token under the model that gave the answers, float32 [rows, length - 1]; null where that is the model as it is.</summary>
    public Tensor? SampledLosses { get; init; }

    /// <summary>The same under the reference, float32 [rows, length - 1]; null to compute it where it is needed.</summary>
    public Tensor? ReferenceLosses { get; init; }

    /// <summary>What is known of the answers of the whole step, by name, for the log.</summary>
    public IReadOnlyDictionary<string, double> Figures { get; init; } = FrozenDictionary<string, double>.Empty;

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        Advantages.Dispose();
        SampledLosses?.Dispose();
        ReferenceLosses?.Dispose();
    }
}

/// <summary>Answers that are each good or bad.</summary>
/// <param name="InputIds">Token ids, int64 [rows, length].</param>
/// <param name="Labels">The answers' tokens, -100 elsewhere, int64 [rows, length].</param>
/// <param name="Desirable">Whether each row's answer is good.</param>
public sealed record JudgedBatch(Tensor InputIds, Tensor Labels, IReadOnlyList<bool> Desirable) : TrainingBatch(InputIds, Labels)
{
    /// <summary>The same prompts, each with the answer to the one before it (the first with the last one's), by which KTO estimates how far the model is from the reference; null where the data has none.</summary>
    public TrainingBatch? Mismatched { get; init; }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        Mismatched?.Dispose();
    }
}

/// <summary>Rows to train or evaluate on. Which rows come when is the trainer's business, how they become tensors the data's.</summary>
public interface ITrainingData
{
    /// <summary>Number of rows.</summary>
    int Count { get; }

    /// <summary>Changes when the rows or what is learnt of them change; a training goes on only from checkpoints with the same one.</summary>
    string Fingerprint { get; }

    /// <summary>Refuses what the model can't take, before anything is learnt.</summary>
    /// <param name="model">The model.</param>
    /// <exception cref="PeftException"><c>TokenOutOfRange</c>, naming the row.</exception>
    void RefuseUnfit(PeftModel model)
    {
    }

    /// <summary>Which rows say nearly the same: for each the number of its group; null where nobody knows. A group is never split between training and evaluation.</summary>
    /// <param name="cancellation">Stops between rows.</param>
    int[]? Groups(CancellationToken cancellation) => null;

    /// <summary>How an adapter that learns these rows is asked; null where nobody knows.</summary>
    PromptForm? Form => null;

    /// <summary>What the user should know before anything is learnt.</summary>
    IReadOnlyList<string> Messages => [];

    /// <summary>What an example is: an objective takes data of its own kind.</summary>
    ExampleKind ExampleKind => ExampleKind.Text;

    /// <summary>Tokens of the longest row, of both answers where it is a pair; null where nobody knows.</summary>
    int? LongestRow => null;

    /// <summary>Tokens of all rows, without padding; null where nobody knows.</summary>
    long? TokenTotal => null;

    /// <summary>Whether padding stands before the tokens of a row instead of behind them.</summary>
    bool PadsInFront => false;

    /// <summary>The shape of each row, as a number: a micro batch holds rows of one shape (images of one size). Null where any rows may share a batch.</summary>
    IReadOnlyList<int>? Shapes => null;

    /// <summary>A row for messages: where it comes from.</summary>
    /// <param name="row">Its index.</param>
    string Describe(int row) => FormattableString.Invariant($"row {row + 1}");

    /// <summary>Makes a micro batch.</summary>
    /// <param name="rows">Indices of the rows, in order.</param>
    /// <param name="device">Where its tensors go.</param>
    TrainingBatch Collate(IReadOnlyList<int> rows, Device device);
}
