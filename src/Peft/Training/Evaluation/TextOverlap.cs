using System.Text.RegularExpressions;

namespace Peft.Training.Evaluation;

/// <summary>How much texts have in common with those that were expected: ROUGE (Lin 2004) and BLEU (Papineni et al. 2002).</summary>
public static partial class TextOverlap
{
    private const int BleuOrder = 4;

    // None of the patterns goes back: a search takes as long as its text.
    private const int LongestSearch = 60_000;

    /// <summary>ROUGE-N: the harmonic mean of precision and recall of runs of words, each counted as often as both texts have it.</summary>
    /// <param name="expected">What was expected.</param>
    /// <param name="answer">What came.</param>
    /// <param name="length">Words in a run.</param>
    /// <returns>From 0 to 1.</returns>
    public static double Rouge(string expected, string answer, int length = 1)
    {
        var (wanted, given) = (Runs(Words(expected), length), Runs(Words(answer), length));
        return Harmonic(Shared(wanted, given), wanted.Values.Sum(), given.Values.Sum());
    }

    /// <summary>ROUGE-L: the same of the longest sequence of words that both have in this order.</summary>
    /// <param name="expected">What was expected.</param>
    /// <param name="answer">What came.</param>
    /// <returns>From 0 to 1.</returns>
    public static double RougeL(string expected, string answer)
    {
        var (wanted, given) = (Words(expected), Words(answer));
        var lengths = new int[given.Length + 1];
        foreach (var word in wanted)
        {
            var diagonal = 0;
            for (var j = 1; j <= given.Length; j++)
            {
                (diagonal, lengths[j]) = (lengths[j], word == given[j - 1] ? diagonal + 1 : Math.Max(lengths[j], lengths[j - 1]));
            }
        }

        return Harmonic(lengths[^1], wanted.Length, given.Length);
    }

    /// <summary>
    /// BLEU of a corpus with one reference each: the geometric mean of the precisions of runs of one to four words, shortened where answers are shorter than what was expected. Words are cut as in
    /// NIST's mteval 13a, case counts, and a precision of 0 becomes half of the least there could be, then a quarter, and so on (Chen and Cherry 2014, method 3), as with sacrebleu.
    /// </summary>
    /// <param name="pairs">What was expected, and what came.</param>
    /// <returns>From 0 to 100.</returns>
    public static double Bleu(IEnumerable<(string Expected, string Answer)> pairs)
    {
        ArgumentNullException.ThrowIfNull(pairs);
        var (right, all) = (new long[BleuOrder], new long[BleuOrder]);
        long wantedLength = 0, givenLength = 0;
        foreach (var (expected, answer) in pairs)
        {
            var (wanted, given) = (BleuWords(expected), BleuWords(answer));
            (wantedLength, givenLength) = (wantedLength + wanted.Length, givenLength + given.Length);
            for (var n = 0; n < BleuOrder; n++)
            {
                var runs = Runs(given, n + 1);
                right[n] += Shared(Runs(wanted, n + 1), runs);
                all[n] += runs.Values.Sum();
            }
        }

        return givenLength == 0 ? 0 : 100 * Brevity(wantedLength, givenLength) * Mean(right, all);
    }

    private static double Brevity(long wanted, long given) => given >= wanted ? 1 : Math.Exp(1 - ((double)wanted / given));

    private static double Mean(long[] right, long[] all)
    {
        var (logarithms, least) = (0.0, 1.0);
        if (Array.TrueForAll(right, static count => count == 0))
        {
            return 0;
        }

        // Answers that are all too short have no run of four words: the mean is over those there are.
        var orders = all.Count(static count => count > 0);
        for (var n = 0; n < orders; n++)
        {
            least /= right[n] == 0 ? 2 : 1;
            logarithms += Math.Log((right[n] == 0 ? least : right[n]) / all[n]);
        }

        return orders < BleuOrder ? 0 : Math.Exp(logarithms / BleuOrder);
    }

    private static double Harmonic(double shared, double wanted, double given) => shared == 0 ? 0 : 2 * shared / (wanted + given);

    private static long Shared(Dictionary<string, int> wanted, Dictionary<string, int> given) =>
        given.Sum(entry => (long)Math.Min(entry.Value, wanted.GetValueOrDefault(entry.Key)));

    private static Dictionary<string, int> Runs(string[] words, int length)
    {
        var runs = new Dictionary<string, int>(StringComparer.Ordinal);
        for (var i = 0; i + length <= words.Length; i++)
        {
            var run = string.Join('\u0001', words, i, length);
            runs[run] = runs.GetValueOrDefault(run) + 1;
        }

        return runs;
    }

    private static string[] Words(string text) => [.. WordPattern().Matches(text.ToLowerInvariant()).Select(static match => match.Value)];

    private static string[] BleuWords(string text)
    {
        text = text.Replace("<skipped>", "", StringComparison.Ordinal).Replace("-\n", "", StringComparison.Ordinal).Replace('\n', ' ')
            .Replace("&quot;", "\"", StringComparison.Ordinal).Replace("&amp;", "&", StringComparison.Ordinal).Replace("&lt;", "<", StringComparison.Ordinal).Replace("&gt;", ">", StringComparison.Ordinal);
        text = Symbols().Replace($" {text} ", " $1 ");
        text = StopBehindOther().Replace(text, "$1 $2 ");
        text = StopBeforeOther().Replace(text, " $1 $2");
        return DashBehindDigit().Replace(text, "$1 $2 ").Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
    }

    [GeneratedRegex(@"[\p{L}\p{M}\p{N}]+", RegexOptions.None, matchTimeoutMilliseconds: LongestSearch)]
    private static partial Regex WordPattern();

    [GeneratedRegex(@"([\{-\~\[-\` -\&\(-\+\:-\@\/])", RegexOptions.None, matchTimeoutMilliseconds: LongestSearch)]
    private static partial Regex Symbols();

    [GeneratedRegex(@"([^0-9])([\.,])", RegexOptions.None, matchTimeoutMilliseconds: LongestSearch)]
    private static partial Regex StopBehindOther();

    [GeneratedRegex(@"([\.,])([^0-9])", RegexOptions.None, matchTimeoutMilliseconds: LongestSearch)]
    private static partial Regex StopBeforeOther();

    [GeneratedRegex(@"([0-9])(-)", RegexOptions.None, matchTimeoutMilliseconds: LongestSearch)]
    private static partial Regex DashBehindDigit();
}
