using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using static TorchSharp.torch;

namespace Peft.Generation;

/// <summary>A row's ids and state while a batch is decoded.</summary>
internal sealed class DecodeRow
{
    /// <summary>Begins a row.</summary>
    /// <param name="index">Index of its prompt in the batch.</param>
    /// <param name="source">The prompt.</param>
    /// <param name="start">What the model continues: the prompt, or the start token of a decoder that reads its encoder.</param>
    /// <param name="sampler">Chooses its tokens.</param>
    public DecodeRow(int index, IReadOnlyList<int> source, IReadOnlyList<int> start, TokenSampler sampler)
    {
        Index = index;
        Source = source;
        Ids = [.. start];
        StartLength = start.Count;
        Sampler = sampler;
    }

    /// <summary>Index of its prompt in the batch as it was given.</summary>
    public int Index { get; }

    /// <summary>The prompt.</summary>
    public IReadOnlyList<int> Source { get; }

    /// <summary>What was continued, and what was added.</summary>
    public List<int> Ids { get; }

    /// <summary>Number of ids that were continued.</summary>
    public int StartLength { get; }

    public int Added => Ids.Count - StartLength;

    public TokenSampler Sampler { get; }

    /// <summary>Sum of log-probabilities over the length that a search weighs it by; null where nothing was searched.</summary>
    public double? Score { get; set; }

    public FinishReason? Finished { get; set; }

    /// <summary>Whether every token was chosen by scores that are numbers.</summary>
    public bool IsFinite { get; set; } = true;

    /// <summary>The same row with other tokens added, for a search.</summary>
    public DecodeRow With(IEnumerable<int> ids)
    {
        var other = new DecodeRow(Index, Source, Ids[..StartLength], Sampler) { IsFinite = IsFinite };
        other.Ids.AddRange(ids.Skip(StartLength));
        return other;
    }
}

/// <summary>Gives the scores of rows' next tokens, and remembers what the rows were, so that each pass computes what is new alone.</summary>
internal abstract class NextTokens(PeftModel owner, AdapterSelection? selection, GenerationOptions options, Device device) : IDisposable
{
    /// <summary>What layers remember; null where every pass computes whole rows.</summary>
    protected ModelCache? Cache { get; } = options.UseCache ? new ModelCache() : null;

    /// <summary>Where the model is.</summary>
    protected Device Device { get; } = device;

    /// <summary>For a model that continues text, or one whose decoder writes of what its encoder read.</summary>
    /// <param name="owner">The model.</param>
    /// <param name="selection">Which adapters act.</param>
    /// <param name="options">How texts are continued.</param>
    /// <param name="padding">Fills rows to one length.</param>
    public static NextTokens Of(PeftModel owner, AdapterSelection? selection, GenerationOptions options, int padding) => owner.Base is SequenceToSequenceModel
        ? new DecoderTokens(owner, selection, options, padding)
        : new TextTokens(owner, selection, options, padding);

    /// <summary>Scores over the vocabulary of each row's next token, [rows, vocabulary]. The rows are those of the pass before, in its order or in that of <see cref="Select"/>, each with one token more.</summary>
    /// <param name="rows">The rows.</param>
    /// <param name="cancellation">Ends the pass between two layers.</param>
    public abstract Tensor Scores(IReadOnlyList<DecodeRow> rows, CancellationToken cancellation);

    /// <summary>Keeps and repeats rows by index: finished ones are dropped, a search reorders.</summary>
    /// <param name="rows">Indices of the rows of the pass before.</param>
    public void Select(IReadOnlyList<long> rows)
    {
        using var scope = NewDisposeScope();
        var indices = tensor(rows.ToArray(), device: Device);
        Cache?.SelectRows(indices);
        SelectOthers(indices);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Cache?.Dispose();
        Release();
    }

    /// <summary>Keeps and repeats what is remembered beside the cache.</summary>
    protected abstract void SelectOthers(Tensor rows);

    /// <summary>Frees it.</summary>
    protected abstract void Release();

    /// <summary>A pass over rows.</summary>
    protected ForwardContext Pass(int rows, long length, Tensor? mask, Tensor? positions, CancellationToken cancellation) => owner.NewPass(new ForwardContext
    {
        Rows = rows,
        Length = length,
        Positions = positions,
        AttentionMask = mask,
        TaskIds = options.TaskId is { } task ? full([rows], task, ScalarType.Int64, Device) : null,
        Cache = Cache,
        Cancellation = cancellation,
    }, selection);

    /// <summary>Ids of one length with padding on a side, and where tokens are; null for everywhere.</summary>
    protected (Tensor Ids, Tensor? Mask) Padded(IReadOnlyList<IReadOnlyList<int>> rows, int padding, bool left)
    {
        var longest = rows.Max(static row => row.Count);
        var (ids, mask) = (new long[rows.Count * longest], new long[rows.Count * longest]);
        Array.Fill(ids, padding);
        for (var r = 0; r < rows.Count; r++)
        {
            var start = (r * longest) + (left ? longest - rows[r].Count : 0);
            for (var t = 0; t < rows[r].Count; t++)
            {
                (ids[start + t], mask[start + t]) = (rows[r][t], 1);
            }
        }

        long[] shape = [rows.Count, longest];
        return (tensor(ids, shape, device: Device), mask.Contains(0) ? tensor(mask, shape, device: Device) : null);
    }

    protected static void Replace(ref Tensor? held, Tensor? by)
    {
        held?.Dispose();
        held = by?.DetachFromDisposeScope();
    }

    /// <summary>The last token of each row, [rows, 1].</summary>
    protected Tensor LastIds(IReadOnlyList<DecodeRow> rows) =>
        tensor(rows.Select(static row => (long)row.Ids[^1]).ToArray(), [rows.Count, 1], device: Device);
}

/// <summary>A model that continues text: prompts are padded on the left, positions count tokens alone.</summary>
internal sealed class TextTokens(PeftModel owner, AdapterSelection? selection, GenerationOptions options, int padding)
    : NextTokens(owner, selection, options, owner.Device)
{
    private readonly CausalModel _model = (CausalModel)owner.Base;
    private Tensor? _mask;

    public override Tensor Scores(IReadOnlyList<DecodeRow> rows, CancellationToken cancellation)
    {
        if (Cache is not null && !_model.Backbone.CanContinue(Cache.Length, Cache.Length + 1))
        {
            Cache.Clear();
        }

        Tensor ids;
        if (Cache is null || Cache.Length == 0)
        {
            (ids, var padded) = Padded([.. rows.Select(static row => row.Ids)], padding, left: true);
            Replace(ref _mask, padded);
        }
        else
        {
            ids = LastIds(rows);
            if (_mask is not null)
            {
                Replace(ref _mask, cat([_mask, ones([rows.Count, 1], dtype: int64, device: Device)], 1));
            }
        }

        var length = ids.size(1);
        var positions = _mask?.cumsum(1).sub(1).clamp_min(0);
        var context = Pass(rows.Count, length, _mask, positions?.narrow(1, positions.size(1) - length, length), cancellation);
        return _model.Logits(_model.Forward(ids, context).LastPosition(), context);
    }

    protected override void SelectOthers(Tensor rows) => Replace(ref _mask, _mask?.index_select(0, rows));

    protected override void Release() => Replace(ref _mask, null);
}

/// <summary>A decoder that writes of what its encoder read: the encoder runs once, its inputs are padded behind.</summary>
internal sealed class DecoderTokens(PeftModel owner, AdapterSelection? selection, GenerationOptions options, int padding)
    : NextTokens(owner, selection, options, owner.Device)
{
    private readonly SequenceToSequenceModel _model = (SequenceToSequenceModel)owner.Base;
    private BackboneOutput? _encoded;
    private long _length;
    private Tensor? _mask;

    public override Tensor Scores(IReadOnlyList<DecodeRow> rows, CancellationToken cancellation)
    {
        ModelInputs inputs;
        if (_encoded is null)
        {
            var (ids, mask) = Padded([.. rows.Select(static row => row.Source)], padding, left: false);
            Replace(ref _mask, mask);
            _length = ids.size(1);
            inputs = new ModelInputs { Ids = ids };
        }
        else
        {
            inputs = new ModelInputs { Encoded = _encoded };
        }

        // All rows have as many tokens: each began with its start token alone, and every pass adds one to each.
        var written = Cache is { Length: > 0 } ? LastIds(rows) : Padded([.. rows.Select(static row => row.Ids)], padding, left: false).Ids;
        var context = Pass(rows.Count, _length, _mask, null, cancellation);
        var output = _model.Forward(inputs with { DecoderIds = written }, context);
        if (_encoded is null)
        {
            Keep(output.Encoded!);
        }

        return _model.Logits(output.LastPosition(), context);
    }

    protected override void SelectOthers(Tensor rows)
    {
        Replace(ref _mask, _mask?.index_select(0, rows));
        var old = _encoded!;
        Keep(old with { Hidden = old.Hidden.view(old.Rows, old.Length, -1).index_select(0, rows).flatten(0, 1), Rows = rows.size(0) });
        old.Hidden.Dispose();
    }

    protected override void Release()
    {
        Replace(ref _mask, null);
        _encoded?.Hidden.Dispose();
        _encoded = null;
    }

    private void Keep(BackboneOutput encoded)
    {
        encoded.Hidden.DetachFromDisposeScope();
        _encoded = new BackboneOutput(encoded.Hidden, encoded.Rows, encoded.Length);
    }
}
