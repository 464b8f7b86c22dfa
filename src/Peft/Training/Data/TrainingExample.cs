using Peft.Tokenization;

namespace Peft.Training.Data;

/// <summary>A stretch of an example that is either learnt or not.</summary>
/// <param name="Text">Its text.</param>
/// <param name="IsLearned">Whether its tokens carry loss.</param>
/// <param name="TokenCount">The number of its tokens.</param>
public sealed record ExampleSegment(string Text, bool IsLearned, int TokenCount);

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

    /// <summary>In a pair, the worse answer to the same prompt; null elsewhere.</summary>
    public TokenRow? Rejected { get; init; }

    /// <summary>In a pair, by how much the better answer is better; null where the data doesn't say.</summary>
    public double? Margin { get; init; }

    /// <summary>Whether the answer is good; null where nobody judged it.</summary>
    public bool? IsDesirable { get; init; }

    /// <summary>How many tokens it has, those of both answers of a pair.</summary>
    public int TokenCount => InputIds.Length + (Rejected?.InputIds.Length ?? 0);

    /// <summary>How many tokens carry loss. The first one never does: nothing stands before it that could predict it.</summary>
    public int LearnedCount => Learned(Labels) + (Rejected is null ? 0 : Learned(Rejected.Labels));

    /// <summary>Whether there is something to learn of it: in a pair, of both answers.</summary>
    internal bool IsLearnable => Learned(Labels) > 0 && (Rejected is null || Learned(Rejected.Labels) > 0);

    /// <summary>Splits the example where loss begins and ends.</summary>
    /// <param name="tokenizer">The tokenizer that made it.</param>
    /// <returns>The stretches in order; their texts together are the whole text.</returns>
    public IReadOnlyList<ExampleSegment> Segments(Tokenizer tokenizer) => Segments(tokenizer, InputIds, Labels);

    /// <summary>Splits the worse answer of a pair, prompt included, in the same way; empty elsewhere.</summary>
    /// <param name="tokenizer">The tokenizer that made it.</param>
    public IReadOnlyList<ExampleSegment> RejectedSegments(Tokenizer tokenizer) => Rejected is null ? [] : Segments(tokenizer, Rejected.InputIds, Rejected.Labels);

    /// <summary>Cuts it to a length.</summary>
    /// <param name="length">Maximum length of each row, in tokens; null keeps all.</param>
    internal TrainingExample Cut(int? length) => length is not { } limit || (InputIds.Length <= limit && (Rejected?.InputIds.Length ?? 0) <= limit) ? this : this with
    {
        InputIds = InputIds[..Math.Min(limit, InputIds.Length)],
        Labels = Labels[..Math.Min(limit, Labels.Length)],
        Rejected = Rejected is null ? null : new TokenRow(Rejected.InputIds[..Math.Min(limit, Rejected.InputIds.Length)], Rejected.Labels[..Math.Min(limit, Rejected.Labels.Length)]),
        UncutLength = Math.Max(InputIds.Length, Rejected?.InputIds.Length ?? 0),
    };

    private static int Learned(int[] labels) => labels.Skip(1).Count(static label => label != Ignored);

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

/// <summary>A row that gives no example.</summary>
/// <param name="Row">The row.</param>
/// <param name="Reason">Why, for people.</param>
public sealed record DroppedRow(TrainingRow Row, string Reason);
