using Peft.Tokenization;

namespace Peft.Training.Data;

/// <summary>A stretch of an example that is either learnt or not.</summary>
/// <param name="Text">Its text.</param>
/// <param name="IsLearned">Whether its tokens carry loss.</param>
/// <param name="TokenCount">The number of its tokens.</param>
public sealed record ExampleSegment(string Text, bool IsLearned, int TokenCount)
{
    /// <inheritdoc/>
    public override string ToString() => Text;
}

/// <summary>What is noteworthy of an example although it can be learnt.</summary>
[Flags]
public enum ExampleRemarks
{
    /// <summary>Nothing.</summary>
    None = 0,

    /// <summary>The answer's first word begins right behind the prompt's last one, without a space.</summary>
    AnswerTouches = 1,

    /// <summary>The answer is empty: only the end of the text is learnt.</summary>
    AnswerEmpty = 2,

    /// <summary>Messages stand behind the assistant's last one; nothing is learnt of them.</summary>
    IdleTail = 4,

    /// <summary>The chat template writes nothing of the tools beside the conversation, or of the calls in it.</summary>
    ToolsLeftOut = 8,
}

/// <summary>An example as the training sees it.</summary>
/// <param name="Row">The row it was made of.</param>
/// <param name="InputIds">Token ids.</param>
/// <param name="Labels">The ids again where a token carries loss, <see cref="Ignored"/> elsewhere.</param>
/// <param name="Rule">Which tokens carry loss and why, for people.</param>
public sealed record TrainingExample(TrainingRow Row, int[] InputIds, int[] Labels, string Rule)
{
    /// <summary>The label of a token that carries no loss.</summary>
    public const int Ignored = -100;

    /// <summary>How many tokens the row had before it was cut.</summary>
    public int UncutLength { get; init; } = InputIds.Length;

    /// <summary>Whether the row was cut at the maximum length.</summary>
    public bool IsCut => UncutLength > InputIds.Length;

    /// <summary>What is noteworthy of it.</summary>
    public ExampleRemarks Remarks { get; init; }

    /// <summary>In a pair, the worse answer to the same prompt; of two texts that are alike the second; null elsewhere.</summary>
    public TokenRow? Rejected { get; init; }

    /// <summary>Beside two texts that are alike, those that the first is to be told from; none elsewhere.</summary>
    public IReadOnlyList<int[]> Negatives { get; init; } = [];

    /// <summary>The tokens of every text of it.</summary>
    internal IEnumerable<int[]> Texts => [InputIds, .. Rejected is null ? Array.Empty<int[]>() : [Rejected.InputIds], .. Negatives];

    /// <summary>In a pair, by how much the better answer is better; of two texts how alike they are; null where the data doesn't say.</summary>
    public double? Margin { get; init; }

    /// <summary>What it is to an objective, and with it what <see cref="Labels"/> are: of a text its own tokens, of two texts the tokens of the second, of words a class for each token, of a question the first and the last token of its answer; empty beside a <see cref="Target"/>.</summary>
    public ExampleKind Kind { get; init; } = ExampleKind.Text;

    /// <summary>What the row as a whole is; null where it isn't classified.</summary>
    public RowTarget? Target { get; init; }

    /// <summary>Which of two texts each token belongs to; null where all are the first's.</summary>
    public int[]? TokenTypes { get; init; }

    /// <summary>Which of several tasks it is; null where nobody says.</summary>
    public int? TaskId { get; init; }

    /// <summary>Whether the answer is good; null where nobody judged it.</summary>
    public bool? IsDesirable { get; init; }

    /// <summary>How many tokens it has, those of both answers of a pair and of all texts that are compared.</summary>
    public int TokenCount => Texts.Sum(static text => text.Length) + (Kind == ExampleKind.SequenceToSequence ? Labels.Length : 0);

    /// <summary>How many labels carry loss. The first of a text that is continued never does: nothing stands before it that could predict it.</summary>
    public int LearnedCount => Target?.Values.Count ?? (Learned(Labels) + (Rejected is null ? 0 : Learned(Rejected.Labels)));

    /// <summary>Whether there is something to learn of it: in a pair, of both answers.</summary>
    internal bool IsLearnable => Target is not null || Learned(Labels) > 0 && (Rejected is null || Learned(Rejected.Labels) > 0);

    /// <summary>Splits the example where loss begins and ends.</summary>
    /// <param name="tokenizer">The tokenizer that made it.</param>
    /// <returns>The stretches in order; their texts together are the whole text.</returns>
    public IReadOnlyList<ExampleSegment> Segments(Tokenizer tokenizer) => Kind switch
    {
        ExampleKind.SequenceToSequence => [.. Segments(tokenizer, InputIds, Nothing()), .. Segments(tokenizer, Labels, Labels)],
        ExampleKind.Span => Segments(tokenizer, InputIds, [.. InputIds.Select((id, i) => i >= Labels[0] && i <= Labels[1] ? id : Ignored)]),
        ExampleKind.Classified => [.. Segments(tokenizer, InputIds, Nothing()), new ExampleSegment("\n" + Target, IsLearned: true, 0)],
        _ => Segments(tokenizer, InputIds, Labels),
    };

    /// <summary>Splits the worse answer of a pair, prompt included, in the same way; empty elsewhere.</summary>
    /// <param name="tokenizer">The tokenizer that made it.</param>
    public IReadOnlyList<ExampleSegment> RejectedSegments(Tokenizer tokenizer) => Rejected is null ? [] : Segments(tokenizer, Rejected.InputIds, Rejected.Labels);

    /// <summary>Cuts it to a length.</summary>
    /// <param name="length">Maximum length of each row, in tokens; null keeps all.</param>
    internal TrainingExample Cut(int? length) => Kind is ExampleKind.Text or ExampleKind.Pair or ExampleKind.Judged or ExampleKind.Rated or ExampleKind.Similar ? CutText(length) : CutLabelled(length);

    private TrainingExample CutText(int? length) => length is not { } limit || Texts.All(text => text.Length <= limit) ? this : this with
    {
        InputIds = InputIds[..Math.Min(limit, InputIds.Length)],
        Labels = Labels[..Math.Min(limit, Labels.Length)],
        Rejected = Rejected is null ? null : new TokenRow(Rejected.InputIds[..Math.Min(limit, Rejected.InputIds.Length)], Rejected.Labels[..Math.Min(limit, Rejected.Labels.Length)]),
        Negatives = [.. Negatives.Select(text => text[..Math.Min(limit, text.Length)])],
        UncutLength = Texts.Max(static text => text.Length),
    };

    /// <summary>What ends a text (an end-of-text token, a separator) stays at its end.</summary>
    private TrainingExample CutLabelled(int? length)
    {
        if (length is not { } limit || (InputIds.Length <= limit && Labels.Length <= limit))
        {
            return this;
        }

        return this with
        {
            InputIds = Shortened(InputIds),
            Labels = Kind switch
            {
                ExampleKind.Span when Labels[1] >= limit - 1 => [0, 0],
                ExampleKind.Span => Labels,
                _ => Shortened(Labels),
            },
            TokenTypes = TokenTypes is null ? null : Shortened(TokenTypes),
            UncutLength = Math.Max(InputIds.Length, Labels.Length),
        };

        int[] Shortened(int[] values) => values.Length <= limit ? values : [.. values[..(limit - 1)], values[^1]];
    }

    private int[] Nothing() => [.. Enumerable.Repeat(Ignored, InputIds.Length)];

    private int Learned(int[] labels) => labels.Skip(Kind is ExampleKind.Text or ExampleKind.Pair or ExampleKind.Judged ? 1 : 0).Count(static label => label != Ignored);

    private static List<ExampleSegment> Segments(Tokenizer tokenizer, int[] ids, int[] labels)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        var segments = new List<ExampleSegment>();
        var before = string.Empty;
        for (var start = 0; start < ids.Length;)
        {
            var learned = labels[start] != Ignored;
            var end = start + 1;
            while (end < ids.Length && (labels[end] != Ignored) == learned)
            {
                end++;
            }

            // Decoded from the beginning, for a tokenizer may drop a space that stands first.
            var whole = tokenizer.Decode(ids.AsSpan(0, end), skipSpecialTokens: false);
            var text = whole.StartsWith(before, StringComparison.Ordinal) ? whole[before.Length..] : tokenizer.Decode(ids.AsSpan(start, end - start), skipSpecialTokens: false);
            segments.Add(new ExampleSegment(text, learned, end - start));
            before = whole;
            start = end;
        }

        return segments;
    }
}

/// <summary>What a row as a whole is.</summary>
/// <param name="Values">The number of its class; 1 and 0 for each class that it may have several of; or a value.</param>
/// <param name="IsClass">Whether it is one class.</param>
/// <param name="Text">The same for people.</param>
public sealed record RowTarget(IReadOnlyList<double> Values, bool IsClass, string Text)
{
    /// <inheritdoc/>
    public override string ToString() => Text;
}

/// <summary>A row that gives no example.</summary>
/// <param name="Row">The row.</param>
/// <param name="Reason">Why, for people.</param>
public sealed record DroppedRow(TrainingRow Row, string Reason);
