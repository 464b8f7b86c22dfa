using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace Peft.Diffusion.Prompts;

/// <summary>
/// The web UI's way to weigh words of a prompt: <c>(word)</c> counts 1.1 times, <c>(word:1.3)</c> 1.3 times, <c>[word]</c> 1.1 times less; they nest,
/// <c>\(</c> is a bracket and <c>BREAK</c> begins a new part.
/// </summary>
public static partial class PromptWeights
{
    private const double Step = 1.1;

    /// <summary>Cuts a prompt into parts of one weight each. Brackets that nobody closed end with the prompt.</summary>
    /// <param name="prompt">The prompt.</param>
    public static IReadOnlyList<WeightedText> Parse(string prompt)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        List<WeightedText> parts = [];
        Stack<int> round = [], square = [];
        foreach (Match match in Tokens().Matches(prompt))
        {
            var token = match.Value;
            if (token[0] == '\\' && token.Length == 2)
            {
                parts.Add(new(token[1..], 1));
            }
            else if (token is "(" or "[")
            {
                (token == "(" ? round : square).Push(parts.Count);
            }
            else if (match.Groups["weight"] is { Success: true } weight && round.Count > 0)
            {
                Multiply(round.Pop(), double.Parse(weight.Value, NumberStyles.Float, CultureInfo.InvariantCulture));
            }
            else if (token == ")" && round.Count > 0)
            {
                Multiply(round.Pop(), Step);
            }
            else if (token == "]" && square.Count > 0)
            {
                Multiply(square.Pop(), 1 / Step);
            }
            else if (token == "BREAK")
            {
                parts.Add(new("", 1) { IsBreak = true });
            }
            else
            {
                parts.Add(new(token, 1));
            }
        }

        foreach (var start in round)
        {
            Multiply(start, Step);
        }

        foreach (var start in square)
        {
            Multiply(start, 1 / Step);
        }

        return Joined(parts);

        void Multiply(int start, double factor)
        {
            for (var i = start; i < parts.Count; i++)
            {
                parts[i] = parts[i] with { Weight = parts[i].Weight * factor };
            }
        }
    }

    private static List<WeightedText> Joined(List<WeightedText> parts)
    {
        List<WeightedText> joined = [];
        var text = new StringBuilder();
        for (var i = 0; i < parts.Count; i++)
        {
            text.Append(parts[i].Text);
            if (i + 1 == parts.Count || parts[i].IsBreak || parts[i + 1].IsBreak || parts[i + 1].Weight != parts[i].Weight)
            {
                joined.Add(parts[i] with { Text = text.ToString() });
                text.Clear();
            }
        }

        return joined;
    }

    [GeneratedRegex(@"\\[()\[\]\\]|:\s*(?<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)|\bBREAK\b|[()\[\]]|[^\\()\[\]:B]+|.", RegexOptions.Singleline | RegexOptions.CultureInvariant, matchTimeoutMilliseconds: 5000)]
    private static partial Regex Tokens();
}

/// <summary>A part of a prompt.</summary>
/// <param name="Text">The words.</param>
/// <param name="Weight">How much they count; 1 is plain.</param>
public sealed record WeightedText(string Text, double Weight)
{
    /// <summary>Whether a new chunk begins here; there are no words then.</summary>
    public bool IsBreak { get; init; }
}
