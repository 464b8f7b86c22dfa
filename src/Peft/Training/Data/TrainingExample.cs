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

    /// <summary>How many tokens carry loss. The first one never does: nothing stands before it that could predict it.</summary>
    public int LearnedCount => Labels.Skip(1).Count(label => label != Ignored);

    /// <summary>Splits the example where loss begins and ends.</summary>
    /// <param name="tokenizer">The tokenizer that made it.</param>
    /// <returns>The stretches in order; their texts together are the whole text.</returns>
    public IReadOnlyList<ExampleSegment> Segments(Tokenizer tokenizer)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        var segments = new List<ExampleSegment>();
        string before = string.Empty;
        for (int start = 0; start < InputIds.Length;)
        {
            bool learned = Labels[start] != Ignored;
            int end = start + 1;
            while (end < InputIds.Length && (Labels[end] != Ignored) == learned)
            {
                end++;
            }

            // Decoded from the beginning, for a tokenizer may drop a space that stands first.
            string whole = tokenizer.Decode(InputIds.AsSpan(0, end), skipSpecialTokens: false);
            string text = whole.StartsWith(before, StringComparison.Ordinal) ? whole[before.Length..] : tokenizer.Decode(InputIds.AsSpan(start, end - start), skipSpecialTokens: false);
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
