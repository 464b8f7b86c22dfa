namespace Peft.Training.Policy;

/// <summary>A prompt that the model answers in its own words.</summary>
/// <param name="Index">The row's index, counted from 0.</param>
/// <param name="Text">The prompt as the model reads it.</param>
/// <param name="Ids">Its tokens.</param>
/// <param name="Row">The row that it was made of, with whatever else a reward may need to know, such as the right answer.</param>
public sealed record PolicyPrompt(int Index, string Text, IReadOnlyList<int> Ids, IReadOnlyDictionary<string, object?> Row);

/// <summary>An answer that the model gave while it was trained.</summary>
/// <param name="Prompt">What it was asked.</param>
/// <param name="Text">The answer, without special tokens.</param>
/// <param name="Ids">Its tokens, the one that ended it included.</param>
/// <param name="IsEnded">Whether the model ended it; otherwise the maximum length did.</param>
public sealed record PolicyCompletion(PolicyPrompt Prompt, string Text, IReadOnlyList<int> Ids, bool IsEnded)
{
    /// <summary>What came, and what was asked, as far as a line holds it.</summary>
    public override string ToString() => FormattableString.Invariant($"'{Start(Text)}', given to '{Start(Prompt.Text)}' (row {Prompt.Index + 1})");

    private static string Start(string text) => VisibleText.Of(text.Length <= 60 ? text : text[..60] + "…");
}

/// <summary>An answer with what it is worth.</summary>
/// <param name="Step">The step that it was given for, counted from 1.</param>
/// <param name="Completion">The answer.</param>
/// <param name="Rewards">What each reward gave it; null where one had nothing to say.</param>
/// <param name="Reward">The weighted sum.</param>
/// <param name="Advantage">By how much it is better than the others to its prompt, as it is learnt.</param>
public sealed record RatedCompletion(int Step, PolicyCompletion Completion, IReadOnlyList<double?> Rewards, double Reward, double Advantage);

/// <summary>Says how good answers are.</summary>
public interface IReward
{
    /// <summary>Its name, for the log.</summary>
    string Name { get; }

    /// <summary>What its figures are multiplied by in the sum. Default 1.</summary>
    double Weight => 1;

    /// <summary>Rates answers.</summary>
    /// <param name="completions">The answers, those to one prompt side by side.</param>
    /// <param name="cancellation">Ends the work.</param>
    /// <returns>A figure for each, the higher the better; null where it has nothing to say.</returns>
    /// <exception cref="PeftException"><c>RewardFailed</c> or <c>RewardInvalid</c>, naming the answer.</exception>
    IReadOnlyList<double?> Rate(IReadOnlyList<PolicyCompletion> completions, CancellationToken cancellation);
}

/// <summary>A reward that is a function.</summary>
/// <param name="name">Its name.</param>
/// <param name="rate">Rates an answer; null where it has nothing to say.</param>
/// <param name="weight">What its figures are multiplied by in the sum.</param>
public sealed class Reward(string name, Func<PolicyCompletion, double?> rate, double weight = 1) : IReward
{
    /// <inheritdoc/>
    public string Name => name;

    /// <inheritdoc/>
    public double Weight => weight;

    /// <inheritdoc/>
    public IReadOnlyList<double?> Rate(IReadOnlyList<PolicyCompletion> completions, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(completions);
        return [.. completions.Select(completion =>
        {
            cancellation.ThrowIfCancellationRequested();
            return rate(completion);
        })];
    }
}
