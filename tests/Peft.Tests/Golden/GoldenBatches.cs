using System.Globalization;
using Peft.Tensors;
using Peft.Training;
using Peft.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>The batches of a golden training, one a row of the data, as they stand in their file: <c>INDEX.NAME</c>.</summary>
internal sealed class GoldenBatches : ITrainingData, IDisposable
{
    private readonly List<TrainingBatch> _batches;

    private readonly ExampleKind _kind;

    private GoldenBatches(List<TrainingBatch> batches, ExampleKind kind)
    {
        _batches = batches;
        _kind = kind;
    }

    /// <summary>One epoch of batches.</summary>
    public IReadOnlyList<TrainingBatch> Batches => _batches;

    public int Count => _batches.Count;

    public string Fingerprint => "golden";

    public ExampleKind ExampleKind => _batches[0] switch
    {
        PairBatch => ExampleKind.Pair,
        JudgedBatch => ExampleKind.Judged,
        RatedBatch => ExampleKind.Rated,
        _ => _kind,
    };

    /// <summary>Reads the batches.</summary>
    /// <param name="path">The file.</param>
    /// <param name="kind">What the objective calls them.</param>
    /// <param name="countsFirst">Whether the peer counted each row's first label too, which nothing precedes: its trainer does so for a class that isn't named ForCausalLM.</param>
    public static GoldenBatches Open(string path, ExampleKind kind = ExampleKind.Text, bool countsFirst = false)
    {
        using var file = SafetensorsFile.Open(path);
        var byIndex = file.Names.Where(static name => char.IsAsciiDigit(name[0])).GroupBy(name => int.Parse(name[..name.IndexOf('.', StringComparison.Ordinal)], CultureInfo.InvariantCulture))
            .OrderBy(group => group.Key)
            .Select(group => Make(group.ToDictionary(name => name[(name.IndexOf('.', StringComparison.Ordinal) + 1)..], name => file.Read(name)), countsFirst ? 0 : 1))
            .ToList();
        return new GoldenBatches(byIndex[..PeriodOf(byIndex)], kind);
    }

    public GoldenBatches Take(int count) => new(_batches[..Math.Min(count, _batches.Count)], _kind);

    public TrainingBatch Collate(IReadOnlyList<int> rows, Device device) => Copy(_batches[Assert.Single(rows)]);

    public void Dispose()
    {
        foreach (var batch in _batches)
        {
            batch.Dispose();
        }
    }

    private static TrainingBatch Copy(TrainingBatch batch)
    {
        batch = batch with
        {
            InputIds = batch.InputIds.alias(),
            Labels = batch.Labels.alias(),
            AttentionMask = batch.AttentionMask?.alias(),
            Positions = batch.Positions?.alias(),
            TokenTypes = batch.TokenTypes?.alias(),
            DecoderIds = batch.DecoderIds?.alias(),
            TaskIds = batch.TaskIds?.alias(),
        };
        return batch switch
        {
            RatedBatch rated => rated with
            {
                Advantages = rated.Advantages.alias(),
                SampledLosses = rated.SampledLosses?.alias(),
                ReferenceLosses = rated.ReferenceLosses?.alias(),
            },
            PairBatch pairs => pairs with { Margins = pairs.Margins?.alias() },
            JudgedBatch judged => judged with { Mismatched = judged.Mismatched is { } other ? Copy(other) : null },
            _ => batch,
        };
    }

    private static TrainingBatch Make(Dictionary<string, Tensor> tensors, long firstCounted)
    {
        using var noGrad = no_grad();
        var labels = tensors.GetValueOrDefault("labels")
            ?? (tensors.TryGetValue("start_positions", out var starts) ? stack([starts, tensors["end_positions"]], 1) : null);
        if (labels is null)
        {
            return MakePreference(tensors);
        }

        var ids = tensors["input_ids"];
        using var scope = NewDisposeScope();
        var positions = tensors.GetValueOrDefault("position_ids");
        return new TrainingBatch(ids, labels)
        {
            AttentionMask = tensors.GetValueOrDefault("attention_mask"),

            // PEFT's wrapper for questions takes token types and never hands them on: what was recorded there is without.
            TokenTypes = tensors.ContainsKey("start_positions") ? null : tensors.GetValueOrDefault("token_type_ids"),
            DecoderIds = tensors.GetValueOrDefault("decoder_input_ids"),
            TaskIds = tensors.GetValueOrDefault("task_ids"),
            Positions = positions,
            Packing = positions is null ? null : Documents(positions),
            TokenCount = tensors.GetValueOrDefault("attention_mask")?.sum().item<long>() ?? ids.numel(),
            TargetCount = labels.dim() < 2 || labels.is_floating_point() ? labels.numel() : labels.narrow(1, firstCounted, labels.shape[1] - firstCounted).ne(-100).sum().item<long>(),
        };
    }

    private static TrainingBatch MakePreference(Dictionary<string, Tensor> tensors)
    {
        if (tensors.TryGetValue("completion_ids", out var answers))
        {
            return MakeRated(tensors, answers);
        }

        if (tensors.ContainsKey("chosen_input_ids"))
        {
            return new PairBatch(Both("input_ids", 0), Both("labels", -100)) { AttentionMask = Both("attention_mask", 0), TokenCount = 0, TargetCount = 0 };
        }

        var learnt = Learnt("");
        if (!tensors.TryGetValue("label", out var desirable))
        {
            return new PairBatch(learnt.InputIds, learnt.Labels)
            {
                AttentionMask = learnt.AttentionMask,
                Margins = tensors.GetValueOrDefault("margin"),
                TokenCount = 0,
                TargetCount = 0,
            };
        }

        return new JudgedBatch(learnt.InputIds, learnt.Labels, [.. desirable.data<long>().Select(label => label != 0)])
        {
            AttentionMask = learnt.AttentionMask,
            Mismatched = tensors.ContainsKey("KL_input_ids") ? Learnt("KL_") : null,
            TokenCount = 0,
            TargetCount = 0,
        };

        TrainingBatch Learnt(string prefix)
        {
            var ids = tensors[$"{prefix}input_ids"];
            var labels = tensors.TryGetValue($"{prefix}completion_mask", out var mask) ? ids.masked_fill(mask.eq(0), -100) : full_like(ids, -100);
            return new TrainingBatch(ids, labels) { AttentionMask = tensors[$"{prefix}attention_mask"], TokenCount = 0, TargetCount = 0 };
        }

        // Chosen and rejected answers come apart, each filled up to its own longest.
        Tensor Both(string name, long filler)
        {
            var (chosen, rejected) = (tensors[$"chosen_{name}"], tensors[$"rejected_{name}"]);
            var length = Math.Max(chosen.size(1), rejected.size(1));
            return cat([.. new[] { chosen, rejected }.Select(side => nn.functional.pad(side, [0, length - side.size(1)], PaddingModes.Constant, filler))], 0);
        }
    }

    /// <summary>Prompts and answers come apart, and figures of the answers' tokens alone.</summary>
    private static RatedBatch MakeRated(Dictionary<string, Tensor> tensors, Tensor answers)
    {
        var (prompts, mask) = (tensors["prompt_ids"], tensors["completion_mask"]);
        return new RatedBatch(cat([prompts, answers], 1), cat([full_like(prompts, -100), answers.masked_fill(mask.eq(0), -100)], 1), tensors["advantages"])
        {
            AttentionMask = cat([tensors["prompt_mask"], mask], 1),
            SampledLosses = Whole("old_per_token_logps"),
            ReferenceLosses = Whole("ref_per_token_logps"),
            TokenCount = 0,
            TargetCount = 0,
        };

        Tensor? Whole(string name) => tensors.TryGetValue(name, out var likelihoods)
            ? cat([zeros(prompts.size(0), prompts.size(1) - 1), likelihoods.neg()], 1)
            : null;
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
