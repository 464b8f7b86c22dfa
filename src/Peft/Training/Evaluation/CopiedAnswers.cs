using Peft.Generation;
using Peft.Models;
using Peft.Training.Data;

namespace Peft.Training.Evaluation;

/// <summary>How many of some questions that were not learnt a model answers with a training row's answer, token for token, where another is right: it repeats what it learnt in place of answering.</summary>
/// <param name="Asked">Questions that were asked.</param>
/// <param name="Copied">Those that got another row's answer.</param>
public sealed record CopiedAnswers(int Asked, int Copied)
{
    private const int MostAsked = 16, MostTokens = 64;

    // Shorter answers (a name, a number) are a matter of course in a small set of them.
    private const int LeastTokens = 4;

    private const double Limit = 0.25;

    /// <summary>Whether that is worth a warning: a quarter of the answers, and more than one.</summary>
    public bool IsMany => Copied > 1 && Copied >= Asked * Limit;

    /// <inheritdoc/>
    public override string ToString() => FormattableString.Invariant($"{Copied} of {Asked}");

    /// <summary>Asks a trained model questions that are set apart.</summary>
    /// <param name="request">The training.</param>
    /// <param name="selection">Who acts.</param>
    /// <param name="learnt">Rows that were learnt.</param>
    /// <param name="unseen">Rows that were not, of the evaluation data or of the same.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    /// <returns>Null where rows have no answers that can be told apart.</returns>
    internal static CopiedAnswers? Measure(TrainingRequest request, AdapterSelection selection, IReadOnlyList<int> learnt, IReadOnlyList<int> unseen, CancellationToken cancellation)
    {
        if (request.Data is not TokenizedDataset { IsPacked: false, ExampleKind: ExampleKind.Text } data || (request.EvaluationData ?? data) is not TokenizedDataset { IsPacked: false, ExampleKind: ExampleKind.Text } judged)
        {
            return null;
        }

        (int[] Prompt, int[] Answer)[] questions =
        [
            .. unseen.Select(row => Parts(judged.Examples[row])).Where(static parts => parts.Prompt.Length > 0 && parts.Answer.Length is > 0 and <= MostTokens).Take(MostAsked),
        ];
        if (questions.Length == 0)
        {
            return null;
        }

        var answers = learnt.Select(row => Key(Parts(data.Examples[row]).Answer, request)).ToHashSet(StringComparer.Ordinal);
        using var scope = TorchSharp.torch.NewDisposeScope();
        var given = new TextGenerator(request.Model).Generate(
            [.. questions.Select(static question => question.Prompt)], new GenerationOptions { MaxNewTokens = questions.Max(static question => question.Answer.Length) }, selection, null, cancellation);
        return new CopiedAnswers(questions.Length, questions.Zip(given).Count(pair =>
            Key(pair.Second.TokenIds, request) is var key && Length(key) >= LeastTokens && answers.Contains(key) && key != Key(pair.First.Answer, request)));
    }

    private static (int[] Prompt, int[] Answer) Parts(TrainingExample example)
    {
        var start = Array.FindIndex(example.Labels, static label => label != TrainingExample.Ignored);
        return start < 0 ? ([], []) : (example.InputIds[..start], example.InputIds[start..]);
    }

    /// <summary>An answer without what ends it.</summary>
    private static string Key(IEnumerable<int> answer, TrainingRequest request) =>
        string.Join(' ', answer.Where(id => request.Model.Tokenizer?.SpecialIds.Contains(id) != true));

    private static int Length(string key) => key.Length == 0 ? 0 : key.Count(static character => character == ' ') + 1;
}
