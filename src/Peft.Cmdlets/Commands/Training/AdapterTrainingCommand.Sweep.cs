using System.Globalization;
using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Pipeline;
using Peft.Diffusion;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Reports;
using Peft.Training.Sweeps;
using TorchSharp;

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
            if (Given("WhatIf"))
            {
                Run(output => PlanSweep(model, members, output));
            }

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
        List<ITrainingObserver> observers = [];
        try
        {
            var prepared = Prepare(model, members, added, output);
            SayPlan(model, prepared, output);
            List<TrainingRequest> requests = [];
            foreach (var (member, data, judged) in prepared)
            {
                added.Find(own => own.Adapter.Name == member.Name)?.Adapter.Report.Messages.ForEach(output.WriteWarning);
                requests.Add(Request(model, member.Name, member.Dataset, data, judged, member.Options, output) with { OutputPath = folder, Progress = report.For(member.Name), Observers = Told(member.Name) });
            }

            if (ComparesBase)
            {
                requests.Add(requests[0] with { AdapterName = null, Progress = report.For(TrainingRequest.BaseName), Observers = Told(TrainingRequest.BaseName) });
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
            observers.ForEach(static observer => observer.Dispose());
            report.Complete();
        }

        ITrainingObserver[] Told(string name)
        {
            ITrainingObserver[] told = [.. Observers(name, output)];
            observers.AddRange(told);
            return told;
        }
    }

    /// <summary>Sees that the model has all adapters, and reads what they learn.</summary>
    /// <param name="model">The model.</param>
    /// <param name="members">The trainings.</param>
    /// <param name="added">Gets what was added to the model, also where this ends in an error.</param>
    /// <param name="output">What is shown meanwhile.</param>
    private List<(SweepMember Member, ITrainingData Data, TrainingDataset? Judged)> Prepare(PeftModel model, List<SweepMember> members, List<AdapterReplacement> added, WorkOutput output)
    {
        var read = new Dictionary<(TrainingDataset Learnt, string? Learner), ITrainingData>();
        List<(SweepMember Member, ITrainingData Data, TrainingDataset? Judged)> prepared = [];
        foreach (var member in members)
        {
            var (learnt, judged) = Split(member.Dataset, member.Options, output.Cancellation);

            // What a diffusion model's encoders make of captions depends on who learns.
            var key = (learnt, model.Base is ILatentDiffusion ? member.Name : null);
            if (Prepare(model, member.Name, member.Config, (ulong)member.Seed, start => ComputeStart(start, model, Data(), member.Options, output)) is { } own)
            {
                added.Add(own);
            }

            prepared.Add((member, Data(), judged));

            ITrainingData Data() => read.TryGetValue(key, out var data) ? data : read[key] = Read(learnt, model, member.Name, member.Options, output);
        }

        return prepared;
    }

    /// <summary>What -WhatIf says of a sweep. The model is left as it was found.</summary>
    private void PlanSweep(PeftModel model, List<SweepMember> members, WorkOutput output)
    {
        using var held = model.Acquire("training");
        List<AdapterReplacement> added = [];
        try
        {
            SayPlan(model, Prepare(model, members, added, output), output);
        }
        finally
        {
            foreach (var own in added.AsEnumerable().Reverse())
            {
                own.Undo();
                own.Dispose();
            }
        }
    }

    /// <summary>Says what each training takes, and all of them.</summary>
    /// <exception cref="PeftException"><c>TrainingMemoryInsufficient</c>: one of them doesn't fit.</exception>
    private void SayPlan(PeftModel model, List<(SweepMember Member, ITrainingData Data, TrainingDataset? Judged)> prepared, WorkOutput output)
    {
        var plans = prepared.ConvertAll(one => (one.Member.Name, Estimate: EstimateOf(model, one.Member.Name, one.Data, one.Member.Options)));
        if (ComparesBase)
        {
            plans.Add((TrainingRequest.BaseName, EstimateOf(model, null, prepared[0].Data, prepared[0].Member.Options)));
        }

        foreach (var (name, estimate) in plans)
        {
            output.WriteLine($"{name}: {TrainingReport.Plan(estimate, PricePerHour)}.");
        }

        output.WriteLine($"Plan of all {plans.Count}: {TrainingReport.Plan(TrainingEstimate.Of(plans.ConvertAll(static plan => plan.Estimate)), PricePerHour)}.");
        foreach (var (one, plan) in prepared.Zip(plans).Where(pair => pair.Second.Estimate.BatchTokens is not null && model.Device.type == DeviceType.CPU))
        {
            plan.Estimate.RefuseTooLarge(model, one.Data, one.Member.Options);
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
            _line.Show(done, Math.Max(done, total), FormattableString.Invariant($"{name}: step {progress.Step} of {progress.TotalSteps}, loss {TrainingReport.Figure(progress.Loss)}"));
        }

        private sealed class Part(SweepReport report, string name) : IProgress<TrainingProgress>
        {
            public void Report(TrainingProgress value) => report.Report(name, value);
        }
    }
}
