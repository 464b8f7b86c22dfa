using System.Globalization;
using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Pipeline;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Sweeps;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Several trainings by one command.</summary>
public abstract partial class AdapterTrainingCommand
{
    /// <summary>Whether several trainings are asked for.</summary>
    private protected bool IsSweep => (Config?.Length ?? 1) * LearningRate.Length * Seed.Length * (Dataset?.Length ?? 1) > 1;

    /// <summary>Whether all weights of the base are trained beside the adapters of a sweep.</summary>
    private protected virtual bool ComparesBase => false;

    private void RunSweep(PeftModel model)
    {
        if (Config is null || From is not null)
        {
            throw new PeftException("ParametersContradict", From is null
                ? "Several learning rates, seeds or data sets make several adapters, for which -Config is needed."
                : "-From repeats one training.")
            {
                Target = nameof(Config),
                RecommendedAction = "Give -Config for new adapters, or one of each.",
            };
        }

        var members = Members(ReadOptions());
        var folder = OutputPath is null ? null : PathResolution.Target(this, OutputPath);
        string[] names = [.. members.Select(static member => member.Name), .. ComparesBase ? [TrainingRequest.BaseName] : Array.Empty<string>()];
        if (!ShouldProcess(model.Name, $"Train {names.Length} adapters ({string.Join(", ", names)}) on {Examples(Dataset.Sum(static dataset => dataset.Count))}"))
        {
            return;
        }

        Run(output => Sweep(model, members, folder, output)).ForEach(WriteObject);
    }

    /// <summary>Everything that is trained, named by what it differs in.</summary>
    private List<SweepMember> Members(TrainingOptions options)
    {
        var labels = ConfigLabels(Config!);
        return
        [
            .. from config in Config!.Index()
               from dataset in Dataset.Index()
               from rate in LearningRate
               from seed in Seed
               select new SweepMember(
                   string.Create(CultureInfo.InvariantCulture, $"{AdapterName}{Part(Config!.Length, labels[config.Index])}{Part(Dataset.Length, $"d{dataset.Index + 1}")}{Part(LearningRate.Length, $"lr{rate.ToString("0.##e0", CultureInfo.InvariantCulture).Replace('.', '_')}")}{Part(Seed.Length, $"seed{seed}")}"),
                   config.Item,
                   dataset.Item,
                   seed,
                   (options with { LearningRate = Given(nameof(LearningRate)) ? rate : options.LearningRate, Seed = Given(nameof(Seed)) ? seed : options.Seed }).Validate()),
        ];

        static string Part(int count, string text) => count > 1 ? $"-{text}" : "";
    }

    /// <summary>A configuration's method and rank, as far as they tell it from the others; its number where they don't.</summary>
    private static string[] ConfigLabels(AdapterConfig[] configs)
    {
        string[] methods = [.. configs.Select(static config => config.PeftType.ToLowerInvariant())];
        string[] ranks = [.. configs.Select(static config => config.ToJson()["r"] is { } rank ? $"r{rank}" : "")];
        string[] both = [.. methods.Zip(ranks, static (method, rank) => rank.Length == 0 ? method : $"{method}-{rank}")];
        return Array.Find([methods.Distinct().Count() == 1 ? ranks : both, both], labels => labels.Distinct().Count() == configs.Length && labels.All(static label => label.Length > 0))
            ?? [.. configs.Select(static (_, i) => FormattableString.Invariant($"c{i + 1}"))];
    }

    private IReadOnlyList<TrainingComparison> Sweep(PeftModel model, List<SweepMember> members, string? folder, WorkOutput output)
    {
        using var held = model.Acquire("training");
        var report = new SweepReport(members.Count + (ComparesBase ? 1 : 0), output);
        List<AdapterReplacement> added = [];
        try
        {
            List<TrainingRequest> requests = [];
            var read = new Dictionary<TrainingDataset, ITrainingData>(ReferenceEqualityComparer.Instance);
            foreach (var (name, config, dataset, seed, options) in members)
            {
                var (learnt, judged) = Split(dataset, options, output.Cancellation);
                if (!read.TryGetValue(learnt, out var data))
                {
                    read[learnt] = data = Read(learnt, model, options, output);
                }

                if (Prepare(model, name, config, (ulong)seed, start => ComputeStart(start, model, data, options, output)) is { } own)
                {
                    added.Add(own);
                    own.Adapter.Report.Messages.ForEach(output.WriteWarning);
                }

                requests.Add(Request(model, name, dataset, data, judged, options, output) with { OutputPath = folder, Progress = report.For(name) });
            }

            if (ComparesBase)
            {
                requests.Add(requests[0] with { AdapterName = null, Progress = report.For(TrainingRequest.BaseName) });
            }

            return new Sweep(requests).Run(output.Cancellation);
        }
        catch
        {
            // Those that have learnt nothing go.
            foreach (var own in added.Where(static own => own.Adapter.TrainingRecord is null).Reverse())
            {
                own.Undo();
            }

            throw;
        }
        finally
        {
            added.ForEach(static own => own.Dispose());
            report.Complete();
        }
    }

    /// <summary>One training of a sweep.</summary>
    private sealed record SweepMember(string Name, AdapterConfig Config, TrainingDataset Dataset, long Seed, TrainingOptions Options);

    /// <summary>One line for all trainings of a sweep.</summary>
    private sealed class SweepReport(int count, WorkOutput output)
    {
        private readonly ProgressLine _line = new(output, FormattableString.Invariant($"Training {count} adapters"), plainLines: true);
        private readonly Dictionary<string, TrainingProgress> _last = [];

        /// <summary>What one of them reports to.</summary>
        public IProgress<TrainingProgress> For(string name) => new Part(this, name);

        /// <summary>Takes the line away.</summary>
        public void Complete() => _line.Complete();

        private void Report(string name, TrainingProgress progress)
        {
            _last[name] = progress;
            var (done, total) = (_last.Values.Sum(static each => (long)each.Step), progress.TotalSteps * (long)count);
            _line.Show(done, Math.Max(done, total), FormattableString.Invariant($"{name}: step {progress.Step} of {progress.TotalSteps}, loss {progress.Loss:0.0000}"));
        }

        private sealed class Part(SweepReport report, string name) : IProgress<TrainingProgress>
        {
            public void Report(TrainingProgress value) => report.Report(name, value);
        }
    }
}
