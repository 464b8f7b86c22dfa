using System.Globalization;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;

namespace Peft.Training.Data;

/// <summary>What is known of examples as they pass by once: counts, what is noteworthy, and their fingerprint.</summary>
/// <param name="limit">Their maximum length, in tokens; <see cref="int.MaxValue"/> for none.</param>
internal sealed class ExampleStatistics(int limit)
{
    private static readonly (ExampleRemarks Remark, string What)[] s_remarks =
    [
        (ExampleRemarks.AnswerTouches, "the answer begins right behind the prompt's last word, without a space between; where that isn't meant, put a space in front of the answers, or a template like '{prompt} ' between"),
        (ExampleRemarks.AnswerEmpty, "the answer is empty, and only the end of the text is learnt"),
        (ExampleRemarks.ToolsLeftOut, "tools or calls of them stand in the conversation that the model's chat template doesn't write: nothing is read or learnt of them"),
        (ExampleRemarks.IdleTail, "messages stand behind the assistant's last one; nothing is learnt of them"),
    ];

    private readonly IncrementalHash _hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
    // Half a digest: among billions of examples two would have the same by chance.
    private readonly HashSet<ulong> _seen = [];
    private readonly Dictionary<ExampleRemarks, (int Count, string First)> _noted = [];
    private (int Count, string First, int Length) _long;
    private (int Count, string First) _repeated;

    /// <summary>Examples that passed by.</summary>
    public int Count { get; private set; }

    /// <summary>Their tokens.</summary>
    public long Tokens { get; private set; }

    /// <summary>Tokens of the longest example; a pair's two answers are two rows of one length.</summary>
    public int Longest { get; private set; }

    /// <summary>Those that carry loss.</summary>
    public long Learned { get; private set; }

    /// <summary>The highest token id.</summary>
    public int HighestId { get; private set; }

    /// <summary>Whether there is something to learn of any.</summary>
    public bool IsLearnable { get; private set; }

    /// <summary>Examples longer than the limit.</summary>
    public int LongCount => _long.Count;

    /// <summary>Examples whose tokens and labels are those of an earlier one.</summary>
    public int DuplicateCount => _repeated.Count;

    /// <summary>Takes notice of an example.</summary>
    public void Add(TrainingExample example)
    {
        Count++;
        Tokens += example.TokenCount;
        Learned += example.LearnedCount;
        Longest = Math.Max(Longest, example.Rejected is null ? example.TokenCount : example.Texts.Count() * example.Texts.Max(static text => text.Length));
        HighestId = Math.Max(HighestId, example.Texts.SelectMany(static text => text).DefaultIfEmpty().Max());
        IsLearnable |= example.IsLearnable;
        var place = example.Row.Place;
        if (example.UncutLength > limit)
        {
            _long = _long.Count == 0 ? (1, place, example.UncutLength) : _long with { Count = _long.Count + 1 };
        }

        foreach (var (remark, _) in s_remarks.Where(entry => example.Remarks.HasFlag(entry.Remark)))
        {
            _noted[remark] = _noted.TryGetValue(remark, out var noted) ? noted with { Count = noted.Count + 1 } : (1, place);
        }

        var digest = Digest(example);
        _hash.AppendData(digest);
        if (!_seen.Add(MemoryMarshal.Read<ulong>(digest)))
        {
            _repeated = _repeated.Count == 0 ? (1, place) : _repeated with { Count = _repeated.Count + 1 };
        }
    }

    /// <summary>Says that all have passed by.</summary>
    /// <param name="options">How they become batches.</param>
    /// <returns>What changes when they, or the options, do.</returns>
    public string Fingerprint(TokenizationOptions options)
    {
        _seen.Clear();
        _seen.TrimExcess();
        _hash.AppendData(Encoding.UTF8.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{options} {Count}")));
        return Convert.ToHexStringLower(_hash.GetHashAndReset());
    }

    /// <summary>What the user should know of them.</summary>
    /// <param name="isSplit">Whether long ones go on in another row.</param>
    public IEnumerable<string> Remarks(bool isSplit)
    {
        if (_long.Count > 0 && !isSplit)
        {
            yield return FormattableString.Invariant(
                $"{_long.Count} of {Count} examples are longer than {limit} tokens and are cut there: what lies beyond is not learnt, nor is where to end. The first is {_long.First}, of {_long.Length} tokens; -MaxLength (max_length) sets the limit.");
        }

        if (_repeated.Count > 0)
        {
            yield return FormattableString.Invariant($"{_repeated.Count} of {Count} examples say the same as an earlier one, and weigh more for it. The first is {_repeated.First}.");
        }

        foreach (var (remark, what) in s_remarks.Where(entry => _noted.ContainsKey(entry.Remark)))
        {
            yield return FormattableString.Invariant($"In {_noted[remark].Count} of {Count} examples {what}. The first is {_noted[remark].First}.");
        }
    }

    private static byte[] Digest(TrainingExample example)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        Append(example.InputIds);
        Append(example.Labels);
        Append(example.Rejected?.InputIds ?? []);
        Append(example.Rejected?.Labels ?? []);
        foreach (var negative in example.Negatives)
        {
            Append(negative);
        }

        if (example.Margin is not null || example.IsDesirable is not null || example.Target is not null || example.TaskId is not null)
        {
            hash.AppendData(Encoding.UTF8.GetBytes(string.Create(
                CultureInfo.InvariantCulture, $"{example.Margin:R} {example.IsDesirable} {string.Join(' ', example.Target?.Values ?? [])} {example.TaskId}")));
        }

        return hash.GetHashAndReset();

        void Append(int[] values)
        {
            hash.AppendData(MemoryMarshal.AsBytes<int>([values.Length]));
            hash.AppendData(MemoryMarshal.AsBytes(values.AsSpan()));
        }
    }
}
