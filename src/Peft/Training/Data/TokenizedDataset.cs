using System.Globalization;
using Peft.Adapters.Asking;
using Peft.Adapters.Model;
using Peft.Files;
using static TorchSharp.torch;

namespace Peft.Training.Data;

/// <summary>How tokenised examples become batches.</summary>
public sealed record TokenizationOptions
{
    /// <summary>What the examples are for: the objective's <see cref="Objectives.IObjective.ExampleKind"/>. Default: texts.</summary>
    public ExampleKind Examples { get; init; }

    /// <summary>The classes of the model's head; null where examples have none.</summary>
    public ModelLabels? Labels { get; init; }

    /// <summary>Maximum length of an example, or of a packed row, in tokens; null keeps all. A data set's own maximum takes precedence.</summary>
    public int? MaxLength { get; init; }

    /// <summary>How short examples share a row. Default: they don't.</summary>
    public PackingStrategy Packing { get; init; }

    /// <summary>Whether examples that are packed by <see cref="PackingStrategy.Wrapped"/> don't see each other and count their positions from 0. Default: they do, as in TRL. Otherwise packed ones never do.</summary>
    public bool KeepsApart { get; init; }

    /// <summary>Whether the rows of a batch are joined into one without padding. Best-fit packing always does so.</summary>
    public bool PaddingFree { get; init; }

    /// <summary>Makes the length of a batch a multiple of it; null for none.</summary>
    public int? PadToMultipleOf { get; init; }

    /// <summary>Whether padding stands in front. Default: behind, as in TRL, whatever the tokenizer does when it generates.</summary>
    public bool PadLeft { get; init; }

    /// <summary>What a training's options say about objective, length and packing.</summary>
    /// <param name="options">The training's options. However examples are packed, none sees another.</param>
    /// <param name="model">The model, whose head may have classes; null where it has none.</param>
    /// <returns>The same for the data.</returns>
    public static TokenizationOptions Of(TrainingOptions options, PeftModel? model = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        return new TokenizationOptions
        {
            Examples = Objectives.ObjectiveRegistry.Create(options).ExampleKind,
            MaxLength = options.MaxLength,
            Labels = model is null ? null : ModelLabels.Of(model.Base),
            Packing = options.Packing,
            KeepsApart = true,
        };
    }
}

/// <summary>A data set in a model's tokens, ready to be learnt.</summary>
public sealed class TokenizedDataset : ITrainingData
{
    private readonly TokenizationOptions _options;
    private readonly int _paddingId;
    private readonly ExampleStatistics _statistics;
    private readonly List<PackedPiece[]>? _packed;

    /// <summary>Takes examples that were made.</summary>
    /// <param name="examples">The examples.</param>
    /// <param name="statistics">What was seen of them as they were made.</param>
    /// <param name="lengths">Their lengths, in tokens.</param>
    /// <param name="dropped">Rows that gave none.</param>
    /// <param name="options">How they become batches.</param>
    /// <param name="paddingId">The id to fill with.</param>
    internal TokenizedDataset(
        IReadOnlyList<TrainingExample> examples, ExampleStatistics statistics, IReadOnlyList<int> lengths, IReadOnlyList<DroppedRow> dropped, TokenizationOptions options, int paddingId)
    {
        Examples = examples;
        Dropped = dropped;
        _options = options;
        _paddingId = paddingId;
        _statistics = statistics;
        _packed = options.Packing == PackingStrategy.None ? null : Packing.Plan(lengths, options.MaxLength!.Value, options.Packing);
        var keepsApart = options.KeepsApart || options.Packing != PackingStrategy.Wrapped;
        Rows = _packed is { } packed
            ? new IndexedList<TokenRow>(packed.Count, row => Packing.Join(packed[row], Row, keepsApart))
            : new IndexedList<TokenRow>(examples.Count, Row);
        Fill = _packed is null ? 1 : _packed.Sum(static row => (double)row.Sum(static piece => piece.Length)) / Math.Max(1, (double)_packed.Count * options.MaxLength!.Value);
        LongestRow = _packed is null ? statistics.Longest : _packed.Select(static row => row.Sum(static piece => piece.Length)).DefaultIfEmpty().Max();
        Fingerprint = statistics.Fingerprint(options);
    }

    /// <summary>The examples, in the order of their rows.</summary>
    public IReadOnlyList<TrainingExample> Examples { get; }

    /// <inheritdoc/>
    public PromptForm? Form { get; internal init; }

    /// <summary>What the user should know before anything is learnt: what is left out, cut, or joined in an unusual way.</summary>
    public IReadOnlyList<string> Messages => field ??= Remarks();

    /// <summary>Rows that gave no example, and why.</summary>
    public IReadOnlyList<DroppedRow> Dropped { get; }

    /// <summary>What batches are made of: an example each, or several where they are packed.</summary>
    public IReadOnlyList<TokenRow> Rows { get; }

    /// <summary>Tokens of all examples, as they would be without packing.</summary>
    public long TokenCount => _statistics.Tokens;

    /// <summary>Tokens that carry loss.</summary>
    public long LearnedCount => _statistics.Learned;

    /// <summary>Examples that are longer than the maximum length.</summary>
    public int LongCount => _statistics.LongCount;

    /// <summary>Examples whose tokens and labels are those of an earlier one.</summary>
    public int DuplicateCount => _statistics.DuplicateCount;

    /// <summary>Whether several examples share a row.</summary>
    public bool IsPacked => _packed is not null;

    /// <inheritdoc/>
    public bool PadsInFront => _options.PadLeft;

    /// <inheritdoc/>
    public int? LongestRow { get; }

    /// <inheritdoc/>
    public long? TokenTotal => TokenCount;

    /// <summary>Maximum length of a row, in tokens; null for none.</summary>
    public int? RowLength => _options.MaxLength;

    /// <summary>Which share of packed rows holds tokens; 1 where examples aren't packed.</summary>
    public double Fill { get; }

    /// <summary>Groups of examples that say nearly the same: for each the number of its group; made when it is asked for.</summary>
    internal Func<CancellationToken, int[]>? Likeness { get; init; }

    /// <inheritdoc/>
    public int[]? Groups(CancellationToken cancellation) => _packed is null ? Likeness?.Invoke(cancellation) : null;

    /// <summary>Whether any token of any row carries loss. Packing may cut off all that would.</summary>
    internal bool HasLearnedTokens => ExampleKind == ExampleKind.Text ? Rows.Any(Learns) : _statistics.IsLearnable;

    private TokenRow Row(int index)
    {
        var example = Examples[index];
        return new TokenRow(example.InputIds, example.Labels);
    }

    private static bool Learns(TokenRow row) => row.Labels.AsSpan(Math.Min(1, row.Labels.Length)).ContainsAnyExcept(TrainingExample.Ignored);

    /// <inheritdoc/>
    public ExampleKind ExampleKind => _options.Examples;

    /// <inheritdoc/>
    public string Describe(int row) => IsPacked ? FormattableString.Invariant($"packed row {row + 1}") : Examples[row].Row.Place;

    /// <inheritdoc/>
    public int Count => Rows.Count;

    /// <inheritdoc/>
    public string Fingerprint { get; }

    /// <inheritdoc/>
    public void RefuseUnfit(PeftModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (model.Base.Backbone.TokenEmbeddings is not { Count: var count } || _statistics.HighestId < count)
        {
            return;
        }

        foreach (var example in Examples)
        {
            var id = example.Texts.SelectMany(static text => text).FirstOrDefault(id => id >= count);
            if (id != 0)
            {
                throw new PeftException("TokenOutOfRange", string.Create(
                    CultureInfo.InvariantCulture, $"{example.Row.Place}: the token '{model.Tokenizer?.TokenText(id)}' ({id}) has no row in the embedding of '{model.Name}', which has {count}."))
                {
                    Target = example.Row,
                    RecommendedAction = "Use the tokenizer that belongs to this model, or take the token out of the row.",
                };
            }
        }
    }

    /// <inheritdoc/>
    public TrainingBatch Collate(IReadOnlyList<int> rows, Device device)
    {
        ArgumentNullException.ThrowIfNull(rows);
        switch (ExampleKind)
        {
            case ExampleKind.Pair or ExampleKind.Similar:
                return Pairs([.. rows.Select(row => Examples[row])], device);
            case ExampleKind.Judged:
                return Judged([.. rows.Select(row => Examples[row])], device);
            case not ExampleKind.Text:
                return Collator.Labelled([.. rows.Select(row => Examples[row])], _paddingId, device, _options.PadLeft, _options.PadToMultipleOf);
        }

        TokenRow[] chosen = [.. rows.Select(row => Rows[row])];
        var flat = _options.PaddingFree || chosen[0].Lengths is not null;
        return flat
            ? Collator.Flattened(chosen, _paddingId, device, _options.PadToMultipleOf)
            : Padded(chosen, device) with { TaskIds = _options.Packing == PackingStrategy.None ? Collator.Tasks([.. rows.Select(row => Examples[row])], device) : null };
    }

    private List<string> Remarks()
    {
        List<string> messages = [];
        if (Dropped is [var first, ..])
        {
            messages.Add(FormattableString.Invariant(
                $"{Dropped.Count} of {Dropped.Count + Examples.Count} rows are left out, for nothing would be learnt of them; the first is {first.Row.Place}: {first.Reason}."));
        }

        messages.AddRange(_statistics.Remarks(isSplit: _options.Packing is PackingStrategy.BestFitSplit or PackingStrategy.Wrapped));
        return messages;
    }

    private PairBatch Pairs(IReadOnlyList<TrainingExample> examples, Device device)
    {
        TokenRow[] negatives = [.. examples.SelectMany(static example => example.Negatives).Select(static text => new TokenRow(text, text))];
        var batch = Padded([.. examples.Select(example => new TokenRow(example.InputIds, example.Labels)), .. examples.Select(example => example.Rejected!), .. negatives], device);
        return new PairBatch(batch.InputIds, batch.Labels)
        {
            Negatives = negatives.Length,
            AttentionMask = batch.AttentionMask,
            TokenCount = batch.TokenCount,
            TargetCount = batch.TargetCount,
            Margins = examples[0].Margin is null ? null : tensor([.. examples.Select(example => (float)example.Margin!)], ScalarType.Float32, device),
        };
    }

    private JudgedBatch Judged(IReadOnlyList<TrainingExample> examples, Device device)
    {
        var batch = Padded([.. examples.Select(example => new TokenRow(example.InputIds, example.Labels))], device);
        return new JudgedBatch(batch.InputIds, batch.Labels, [.. examples.Select(example => example.IsDesirable!.Value)])
        {
            AttentionMask = batch.AttentionMask,
            TokenCount = batch.TokenCount,
            TargetCount = batch.TargetCount,
            Mismatched = examples.Count == 1 ? null : Padded([.. examples.Select((example, i) => Mismatched(example, examples[(i + examples.Count - 1) % examples.Count]))], device),
        };
    }

    /// <summary>A prompt with the answer to another one.</summary>
    private TokenRow Mismatched(TrainingExample prompt, TrainingExample answer)
    {
        int end = AnswerStart(prompt), start = AnswerStart(answer);
        int[] ids = [.. prompt.InputIds[..end], .. answer.InputIds[start..]], labels = [.. prompt.Labels[..end], .. answer.Labels[start..]];
        var length = Math.Min(ids.Length, _options.MaxLength ?? ids.Length);
        return new TokenRow(ids[..length], labels[..length]);

        static int AnswerStart(TrainingExample example) => Math.Max(0, Array.FindIndex(example.Labels, static label => label != TrainingExample.Ignored));
    }

    private TrainingBatch Padded(IReadOnlyList<TokenRow> rows, Device device) => Collator.Padded(rows, _paddingId, device, _options.PadLeft, _options.PadToMultipleOf);
}
