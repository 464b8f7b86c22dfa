using Peft.Generation.LogitsProcessors;

namespace Peft.Generation;

/// <summary>Chooses a row's next token from its scores: applies the rules, then takes the likeliest or draws.</summary>
/// <remarks>One a row, so that what a row draws does not depend on the rows beside it.</remarks>
internal sealed class TokenSampler
{
    private readonly IReadOnlyList<LogitsProcessor> _chain;
    private readonly Random? _random;

    /// <summary>Makes it for a row.</summary>
    /// <param name="options">The rules.</param>
    /// <param name="endOfText">Ids that end a text.</param>
    /// <param name="row">Index of the row, on which draws depend.</param>
    /// <param name="source">The prompt.</param>
    /// <param name="startLength">Number of ids that are continued: the prompt's, or a decoder's start.</param>
    public TokenSampler(GenerationOptions options, IReadOnlyList<int> endOfText, int row, IReadOnlyList<int>? source = null, int startLength = 0)
    {
        MaxAdded = options.MaxNewTokens ?? Math.Max(1, (options.MaxLength ?? GenerationOptions.StandardLength + startLength) - startLength);
        _chain = LogitsProcessorChain.Create(options, endOfText, source, MaxAdded);
        if (options.Sample)
        {
            _random = options.Seed is { } seed ? new Random(Scattered(seed + ((ulong)row * 0x9E3779B97F4A7C15))) : new Random();
        }
    }

    /// <summary>Whether the choice is the largest score and nothing else, so that it can be made where the scores are.</summary>
    public bool IsPlainGreedy => _chain.Count == 0 && _random is null;

    /// <summary>The row's next random number, in [0, 1).</summary>
    public double NextDraw() => _random!.NextDouble();

    /// <summary>The most tokens that the row may get.</summary>
    public int MaxAdded { get; }

    /// <summary>Applies the rules to scores, or to log-probabilities.</summary>
    public void Process(ReadOnlySpan<int> ids, int added, Span<float> scores)
    {
        foreach (var process in _chain)
        {
            process(ids, added, scores);
        }
    }

    /// <summary>Chooses a token; changes <paramref name="scores"/>.</summary>
    public int Choose(ReadOnlySpan<int> ids, int added, Span<float> scores)
    {
        Process(ids, added, scores);
        return _random is null ? System.Numerics.Tensors.TensorPrimitives.IndexOfMax<float>(scores) : Draw(scores);
    }

    /// <summary>A seed for .NET's generator, whose draws of neighbouring seeds lie on a line: SplitMix64's finaliser takes them apart (Steele et al. 2014).</summary>
    private static int Scattered(ulong seed)
    {
        seed = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9;
        seed = (seed ^ (seed >> 27)) * 0x94D049BB133111EB;
        return unchecked((int)(seed ^ (seed >> 31)));
    }

    private int Draw(ReadOnlySpan<float> scores)
    {
        var probabilities = Truncation.Softmax(scores);
        var left = _random!.NextDouble();
        var last = 0;
        for (var i = 0; i < probabilities.Length; i++)
        {
            if (probabilities[i] == 0)
            {
                continue;
            }

            last = i;
            left -= probabilities[i];
            if (left < 0)
            {
                break;
            }
        }

        return last;
    }
}
