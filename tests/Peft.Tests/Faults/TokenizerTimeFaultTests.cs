using System.Diagnostics;
using Peft.Tests.Golden;
using Peft.Tokenization;

namespace Peft.Tests.Faults;

/// <summary>Long texts that are hard on a tokenizer: runs of one thing, before and behind what is cut out.</summary>
public sealed class TokenizerTimeFaultTests
{
    private static readonly string[] s_runs = [" ", "a", "\n", "\t ", "1", "!", "'", "\u0301", "\u4e00", "\ud83d\ude00", "\u200d", "A", "a ", " a", "\u2581", "<", "\ud83d", "\0", "e\u0301", "aB1 "];

    [Fact, Fault]
    public void TimeGrowsWithTheTextAndNotWithItsSquare()
    {
        var folders = Directory.EnumerateFiles(GoldenCases.Root, "tokenizer.json", SearchOption.AllDirectories)
            .Concat(Directory.EnumerateFiles(GoldenCases.Root, "tokenizer.model", SearchOption.AllDirectories))
            .Select(file => Path.GetDirectoryName(file)!).Distinct().Order(StringComparer.Ordinal);
        FaultBudget.Run(folders, folder =>
        {
            Tokenizer tokenizer;
            try
            {
                tokenizer = Tokenizer.FromFolder(folder);
            }
            catch (PeftException)
            {
                return;
            }

            var added = tokenizer.AddedTokens.Select(token => token.Content).FirstOrDefault() ?? "";
            foreach (var run in s_runs)
            {
                foreach (var shape in new[] { "{0}", "{0}" + added, added + "{0}" + added, "a{0}a" })
                {
                    var seconds = Seconds(tokenizer, shape, run, 200_000);
                    Assert.True(seconds < 8, $"{folder} takes {seconds:F1} s for 200,000 times '{run}' in '{shape}'.");
                }
            }
        });
    }

    private static double Seconds(Tokenizer tokenizer, string shape, string run, int length)
    {
        var text = shape.Replace("{0}", string.Concat(Enumerable.Repeat(run, length / run.Length)), StringComparison.Ordinal);
        var clock = Stopwatch.StartNew();
        try
        {
            tokenizer.Decode(tokenizer.EncodeIds(text));
        }
        catch (PeftException)
        {
            // A tokenizer may lack the token for what it doesn't know.
        }

        return clock.Elapsed.TotalSeconds;
    }
}
