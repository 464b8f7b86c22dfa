using Peft.Training;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

/// <summary>Rows of random tokens of which all but the first two carry loss, some shorter than the others.</summary>
internal sealed class RandomRows(int count, int vocabulary, int length = 7, string fingerprint = "rows") : ITrainingData
{
    private readonly long[][] _rows =
    [
        .. Enumerable.Range(0, count).Select(row =>
        {
            var random = new Random(row);
            return Enumerable.Range(0, length - (row % 3)).Select(_ => (long)random.Next(3, vocabulary)).ToArray();
        }),
    ];

    public List<int> Seen { get; } = [];

    public int Count => _rows.Length;

    public string Fingerprint => fingerprint;

    public long? TokenTotal => _rows.Sum(static row => (long)row.Length);

    /// <summary>Called before each micro batch with the number of micro batches made before it.</summary>
    public Action<int>? Before { get; set; }

    private int _made;

    public TrainingBatch Collate(IReadOnlyList<int> chosen, Device device)
    {
        Before?.Invoke(_made++);
        Seen.AddRange(chosen);
        var width = chosen.Max(row => _rows[row].Length);
        var (ids, labels, mask) = (new long[chosen.Count, width], new long[chosen.Count, width], new long[chosen.Count, width]);
        long tokens = 0, targets = 0;
        for (var i = 0; i < chosen.Count; i++)
        {
            var row = _rows[chosen[i]];
            for (var j = 0; j < width; j++)
            {
                var isToken = j < row.Length;
                ids[i, j] = isToken ? row[j] : 0;
                labels[i, j] = isToken && j > 1 ? row[j] : -100;
                mask[i, j] = isToken ? 1 : 0;
                tokens += isToken ? 1 : 0;
                targets += isToken && j > 1 ? 1 : 0;
            }
        }

        return new TrainingBatch(tensor(ids), tensor(labels)) { AttentionMask = tensor(mask), TokenCount = tokens, TargetCount = targets };
    }
}
