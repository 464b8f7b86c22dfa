using System.Globalization;
using Peft.Tensors;
using Peft.Training;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>The batches of a golden training, one a row of the data, as they stand in their file: <c>INDEX.NAME</c>.</summary>
internal sealed class GoldenBatches : ITrainingData, IDisposable
{
    private readonly List<TrainingBatch> batches;

    private GoldenBatches(List<TrainingBatch> batches)
    {
        this.batches = batches;
    }

    /// <summary>One epoch of batches.</summary>
    public IReadOnlyList<TrainingBatch> Batches => batches;

    public int Count => batches.Count;

    public string Fingerprint => "golden";

    public static GoldenBatches Open(string path)
    {
        using var file = SafetensorsFile.Open(path);
        var byIndex = file.Names.GroupBy(name => int.Parse(name[..name.IndexOf('.', StringComparison.Ordinal)], CultureInfo.InvariantCulture))
            .OrderBy(group => group.Key)
            .Select(group => Make(group.ToDictionary(name => name[(name.IndexOf('.', StringComparison.Ordinal) + 1)..], name => file.Read(name))))
            .ToList();
        return new GoldenBatches(byIndex[..PeriodOf(byIndex)]);
    }

    public GoldenBatches Take(int count) => new(batches[..Math.Min(count, batches.Count)]);

    public TrainingBatch Collate(IReadOnlyList<int> rows, Device device)
    {
        var batch = batches[Assert.Single(rows)];
        return batch with
        {
            InputIds = batch.InputIds.alias(),
            Labels = batch.Labels.alias(),
            AttentionMask = batch.AttentionMask?.alias(),
            Positions = batch.Positions?.alias(),
        };
    }

    public void Dispose()
    {
        foreach (var batch in batches)
        {
            batch.Dispose();
        }
    }

    private static TrainingBatch Make(Dictionary<string, Tensor> tensors)
    {
        using var noGrad = no_grad();
        var (ids, labels) = (tensors["input_ids"], tensors["labels"]);
        using var scope = NewDisposeScope();
        var positions = tensors.GetValueOrDefault("position_ids");
        return new TrainingBatch(ids, labels)
        {
            AttentionMask = tensors.GetValueOrDefault("attention_mask"),
            Positions = positions,
            Packing = positions is null ? null : Documents(positions),
            TokenCount = tensors.GetValueOrDefault("attention_mask")?.sum().item<long>() ?? ids.numel(),
            TargetCount = labels.dim() < 2 ? labels.numel() : labels.narrow(1, 1, labels.shape[1] - 1).ne(-100).sum().item<long>(),
        };
    }

    /// <summary>A document begins where positions start again.</summary>
    private static List<IReadOnlyList<int>> Documents(Tensor positions)
    {
        var (rows, length) = (positions.shape[0], (int)positions.shape[1]);
        var values = positions.data<long>().ToArray();
        return
        [
            .. Enumerable.Range(0, (int)rows).Select(row =>
            {
                var starts = Enumerable.Range(0, length).Where(i => values[(row * length) + i] == 0).Append(length).ToArray();
                return (IReadOnlyList<int>)[.. starts.Zip(starts.Skip(1), (start, next) => next - start)];
            }),
        ];
    }

    /// <summary>Some files list every micro batch of a training over several epochs in order: the number after which they repeat.</summary>
    private static int PeriodOf(List<TrainingBatch> all) => Enumerable.Range(1, all.Count).First(
        period => Enumerable.Range(period, all.Count - period).All(i => Same(all[i].InputIds, all[i - period].InputIds)));

    private static bool Same(Tensor left, Tensor right) =>
        left.shape.SequenceEqual(right.shape) && left.data<long>().ToArray().SequenceEqual(right.data<long>().ToArray());
}
