using System.Globalization;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using Peft.Adapters.Asking;
using Peft.Adapters.Model;
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

    /// <summary>Whether the rows of a batch are joined into one without padding. Best-fit packing always does so.</summary>
    public bool PaddingFree { get; init; }

    /// <summary>Makes the length of a batch a multiple of it; null for none.</summary>
    public int? PadToMultipleOf { get; init; }

    /// <summary>Whether padding stands in front. Default: behind, as in TRL, whatever the tokenizer does when it generates.</summary>
    public bool PadLeft { get; init; }

    /// <summary>What a training's options say about objective, length and packing.</summary>
    /// <param name="options">The training's options; packing there is <see cref="PackingStrategy.BestFit"/>.</param>
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
            Packing = options.Packing ? PackingStrategy.BestFit : PackingStrategy.None,
        };
    }
}

/// <summary>A data set in a model's tokens, ready to be learnt.</summary>
public sealed class TokenizedDataset : ITrainingData
{
    private readonly TokenizationOptions _options;
    private readonly int _paddingId;

    internal TokenizedDataset(IReadOnlyList<TrainingExample> examples, IReadOnlyList<DroppedRow> dropped, TokenizationOptions options, int paddingId)
    {
        Examples = examples;
        Dropped = dropped;
        _options = options;
        _paddingId = paddingId;
        TokenRow[] rows = [.. examples.Select(example => new TokenRow(example.InputIds, example.Labels))];
        Rows = options.Packing == PackingStrategy.None ? rows : Packing.Pack(rows, options.MaxLength!.Value, options.Packing);
        Fingerprint = Hash();
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

    /// <summary>Whether any token of any row carries loss. Packing may cut off all that would.</summary>
    internal bool HasLearnedTokens => ExampleKind == ExampleKind.Text ? Rows.Any(Learns) : Examples.Any(static example => example.IsLearnable);

    private static bool Learns(TokenRow row) => row.Labels.AsSpan(Math.Min(1, row.Labels.Length)).ContainsAnyExcept(TrainingExample.Ignored);

    /// <inheritdoc/>
    public ExampleKind ExampleKind => _options.Examples;

    /// <inheritdoc/>
    public int Count => Rows.Count;

    /// <inheritdoc/>
    public string Fingerprint { get; }

    /// <inheritdoc/>
    public void RefuseUnfit(PeftModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (model.Base.Backbone.TokenEmbeddings is not { Count: var count })
        {
            return;
        }

        foreach (var example in Examples)
        {
            var id = example.InputIds.Concat(example.Rejected?.InputIds ?? []).FirstOrDefault(id => id >= count);
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
            case ExampleKind.Pair:
                return Pairs([.. rows.Select(row => Examples[row])], device);
            case ExampleKind.Judged:
                return Judged([.. rows.Select(row => Examples[row])], device);
            case not ExampleKind.Text:
                return Collator.Labelled([.. rows.Select(row => Examples[row])], _paddingId, device, _options.PadLeft, _options.PadToMultipleOf);
        }

        TokenRow[] chosen = [.. rows.Select(row => Rows[row])];
        var flat = _options.PaddingFree || _options.Packing is PackingStrategy.BestFit or PackingStrategy.BestFitSplit;
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

        var limit = _options.MaxLength ?? int.MaxValue;
        if (Examples.FirstOrDefault(example => example.UncutLength > limit) is { } cut)
        {
            messages.Add(FormattableString.Invariant(
                $"{Examples.Count(example => example.UncutLength > limit)} of {Examples.Count} examples are longer than {limit} tokens and are cut there: what lies beyond is not learnt, nor is where to end. The first is {cut.Row.Place}, of {cut.UncutLength} tokens; -MaxLength (max_length) sets the limit."));
        }

        foreach (var (remark, what) in (ReadOnlySpan<(ExampleRemarks, string)>)[
            (ExampleRemarks.AnswerTouches, "the answer begins right behind the prompt's last word, without a space between; where that isn't meant, put a space in front of the answers, or a template like '{prompt} ' between"),
            (ExampleRemarks.AnswerEmpty, "the answer is empty, and only the end of the text is learnt"),
            (ExampleRemarks.IdleTail, "messages stand behind the assistant's last one; nothing is learnt of them")])
        {
            if (Examples.FirstOrDefault(example => example.Remarks.HasFlag(remark)) is { } example)
            {
                messages.Add(FormattableString.Invariant(
                    $"In {Examples.Count(other => other.Remarks.HasFlag(remark))} of {Examples.Count} examples {what}. The first is {example.Row.Place}."));
            }
        }

        return messages;
    }

    private PairBatch Pairs(IReadOnlyList<TrainingExample> examples, Device device)
    {
        var batch = Padded([.. examples.Select(example => new TokenRow(example.InputIds, example.Labels)), .. examples.Select(example => example.Rejected!)], device);
        return new PairBatch(batch.InputIds, batch.Labels)
        {
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

    private string Hash()
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(Encoding.UTF8.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{_options} {Rows.Count}")));
        foreach (var row in Rows.Concat(Examples.Select(static example => example.Rejected).OfType<TokenRow>()))
        {
            hash.AppendData(MemoryMarshal.AsBytes<int>([row.InputIds.Length]));
            hash.AppendData(MemoryMarshal.AsBytes(row.InputIds.AsSpan()));
            hash.AppendData(MemoryMarshal.AsBytes(row.Labels.AsSpan()));
        }

        foreach (var example in Examples.Where(static example => example.Margin is not null || example.IsDesirable is not null))
        {
            hash.AppendData(Encoding.UTF8.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{example.Margin:R} {example.IsDesirable}")));
        }

        foreach (var example in Examples.Where(static example => example.Target is not null || example.TaskId is not null))
        {
            hash.AppendData(Encoding.UTF8.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{string.Join(' ', example.Target?.Values ?? [])} {example.TaskId}")));
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }
}
