using System.Globalization;
using Peft.Adapters.Model;
using Peft.Cmdlets.Pipeline;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Diffusion;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>What a training says of itself: at its beginning, while it runs, and at its end, also where it is stopped.</summary>
/// <param name="adapterName">The adapter.</param>
/// <param name="outputPath">Folder for the results, or null.</param>
internal sealed class TrainingReport(string adapterName, string? outputPath) : IProgress<TrainingProgress>
{
    private WorkOutput? _output;
    private ProgressLine? _line;
    private TrainingStart _start;

    // What the speed counts.
    private string _unit = "tokens";
    private TrainingProgress? _last;

    /// <summary>The adapter.</summary>
    public string AdapterName => adapterName;

    /// <summary>Folder for the results, or null.</summary>
    public string? OutputPath => outputPath;

    private string? Folder => outputPath is null ? null : Path.Combine(outputPath, adapterName);

    /// <summary>Says where it is shown.</summary>
    public void Show(WorkOutput output)
    {
        _output = output;
        _line = new ProgressLine(output, $"Training '{adapterName}'", plainLines: true);
    }

    /// <summary>Says what is trained on what and where the results go, and shows the first example with what of it is learnt.</summary>
    public void Begin(TrainingStart start, ITrainingData data, ITrainingData? judged, PeftModel model, PeftAdapter? adapter)
    {
        _start = start;
        _unit = data is ImageDataset ? "images" : "tokens";
        Say($"Training '{adapterName}' on {What(data)}.");
        if (data is TokenizedDataset { IsPacked: true } packed)
        {
            Say($"Packed into {packed.Rows.Count:N0} rows of {packed.RowLength:N0} tokens, {packed.Fill:P1} full.");
        }

        if (start.EvaluationRows > 0)
        {
            var (count, rows) = judged is TokenizedDataset { IsPacked: true } examples ? (examples.Examples.Count, FormattableString.Invariant($", packed into {start.EvaluationRows:N0} {(start.EvaluationRows == 1 ? "row" : "rows")}")) : (start.EvaluationRows, "");
            Say($"Evaluated on {AdapterTrainingCommand.Examples(count)} that {(count == 1 ? "is" : "are")} not learnt{rows}{(start.Rows < data.Count ? "; the tokens are those of all" : "")}.");
        }

        Say($"Trained are {start.Parameters:N0} parameters: {(adapter is null ? "all weights of the model" : adapter.Coverage.ToString() is { Length: > 0 } coverage ? coverage : "what the method has of its own")}.");
        if (data is TokenizedDataset tokenized)
        {
            _output!.WriteLine(TrainingExampleView.Of(0, tokenized.Examples[0], model.RequiredTokenizer).ToString());
        }

        if (Folder is null)
        {
            Say($"Nothing is written to the disk; -OutputPath does that, with checkpoints to go on from.");
        }
        else
        {
            Say($"{(adapter is null ? "Model:  " : "Adapter:")}     {Folder}");
            Say($"Checkpoints: {Path.Combine(Folder, "checkpoints")}");
        }

        if (start.StepsMade >= start.TotalSteps)
        {
            Say($"All {start.TotalSteps:N0} steps were made before: there is nothing left to do. A larger -Epoch or -MaxSteps goes on.");
        }
        else if (start.StepsMade > 0)
        {
            Say($"Goes on after step {start.StepsMade:N0} of {start.TotalSteps:N0}.");
        }
    }

    private string What(ITrainingData data) => data is ImageDataset
        ? FormattableString.Invariant($"{_start.Rows:N0} {(_start.Rows == 1 ? "image" : "images")}")
        : data is TokenizedDataset tokenized
        ? FormattableString.Invariant($"{AdapterTrainingCommand.Examples(_start.Rows == tokenized.Rows.Count ? tokenized.Examples.Count : _start.Rows)}: {tokenized.TokenCount:N0} tokens, of which {tokenized.LearnedCount:N0} are learnt")
        : FormattableString.Invariant($"{_start.Rows:N0} {(_start.Rows == 1 ? "prompt" : "prompts")} that the model answers itself");

    /// <inheritdoc/>
    public void Report(TrainingProgress value)
    {
        _last = value;
        var evaluation = value.Reward is { } reward ? FormattableString.Invariant($"reward {reward:0.000}, ") : "";
        evaluation += value.EvaluationLoss is { } loss ? FormattableString.Invariant($"evaluation {Figure(loss)}, ") : "";
        evaluation += value.RetentionLoss is { } kept ? FormattableString.Invariant($"retention {Figure(kept)}, ") : "";
        _line!.Show(
            value.Step,
            value.TotalSteps,
            FormattableString.Invariant($"step {value.Step}/{value.TotalSteps}, loss {Figure(value.Loss)}, {evaluation}{Speed(value.TokensPerSecond)}"),
            value.Remaining,
            FormattableString.Invariant($"step {value.Step} of {value.TotalSteps}, epoch {value.Epoch:0.0}, loss {Figure(value.Loss)}, {evaluation}{Speed(value.TokensPerSecond)}, {Time(value.Remaining)} left"));
    }

    private string Speed(double perSecond) => string.Create(CultureInfo.InvariantCulture, $"{perSecond.ToString(perSecond < 10 ? "0.0" : "N0", CultureInfo.InvariantCulture)} {_unit}/s");

    /// <summary>What an hour costs; 0 where nobody says.</summary>
    public double PricePerHour { get; init; }

    /// <summary>Says what the training will take.</summary>
    public void Say(TrainingEstimate estimate) => Say($"Plan: {Plan(estimate, PricePerHour)}.");

    /// <summary>What a training will take, in words.</summary>
    internal static string Plan(TrainingEstimate estimate, double pricePerHour)
    {
        var tokens = estimate.Tokens is { } count ? FormattableString.Invariant($", {count:N0} tokens") : "";
        var time = estimate.Duration is { } duration ? FormattableString.Invariant($", roughly {Time(duration)}{Price(duration, pricePerHour)}") : "";
        var memory = estimate.BatchTokens is null ? "" : FormattableString.Invariant(
            $"; memory up to {estimate.PeakBytes / 1e6:N0} MB (weights {estimate.WeightBytes / 1e6:N0}, activations {estimate.ActivationBytes / 1e6:N0}, optimiser {estimate.OptimizerBytes / 1e6:N0}, scores {estimate.ScoreBytes / 1e6:N0}, process {estimate.ProcessBytes / 1e6:N0})");
        return FormattableString.Invariant($"{estimate.Steps:N0} {(estimate.Steps == 1 ? "step" : "steps")}{tokens}{time}{memory}");
    }

    private static string Price(TimeSpan time, double perHour) => perHour > 0 ? $" at a price of {Amount(time.TotalHours * perHour)}" : "";

    /// <summary>Two places behind the point, or of what is less than one two figures that aren't 0.</summary>
    private static string Amount(double price)
    {
        var places = price is > 0 and < 1 ? 1 - (int)Math.Floor(Math.Log10(price)) : 2;
        return price.ToString(FormattableString.Invariant($"N{places}"), CultureInfo.InvariantCulture);
    }

    /// <summary>Says what came of it.</summary>
    public void End(TrainingRecord record)
    {
        _line!.Complete();
        if (_start.StepsMade < _start.TotalSteps)
        {
            Say($"Trained '{adapterName}': {Results(record)}{Price(record.Duration, PricePerHour)}. {(Folder is null ? $"It is in memory alone; Export-PeftAdapter saves it." : $"It lies in {Folder}.")}");
        }
    }

    /// <summary>What came of a training that was stopped, and how to go on; for the moment when it has ended.</summary>
    public string Stopped(PeftModel model)
    {
        if (_last is not { } last)
        {
            return $"The training of '{adapterName}' was stopped before its first step: nothing has changed.";
        }

        // A machine that is busy may still write what was learnt: then the last report tells.
        var record = model.Adapters.FirstOrDefault(adapter => adapter.Name == adapterName)?.TrainingRecord as TrainingRecord;
        var results = record is { StepCount: > 0 } && record.StepCount >= last.Step ? Results(record) : FormattableString.Invariant($"loss {Figure(last.Loss)}");
        var whereto = Folder is null
            ? $"The adapter stays in the model as it is after its last step; Get-PeftAdapter '{adapterName}' gives it, and Export-PeftAdapter saves it."
            : $"The checkpoint of its last step is in {Path.Combine(Folder, "checkpoints")}; the same command with -Resume goes on from it.";
        return $"The training of '{adapterName}' was stopped after step {last.Step} of {last.TotalSteps}: {results}. {whereto}";
    }

    private static string Results(TrainingRecord record)
    {
        var best = record.BestStep is { } step && step.Step != record.StepCount ? FormattableString.Invariant($" (lowest {Figure(step.Loss)} in step {step.Step:N0})") : "";
        var evaluation = record.FinalEvaluation is not { } last ? ""
            : record.BestEvaluation is { } lowest && lowest.Step != last.Step ? FormattableString.Invariant($", evaluation {Figure(last.Loss)} (lowest {Figure(lowest.Loss)} after step {lowest.Step:N0})")
            : FormattableString.Invariant($", evaluation {Figure(last.Loss)}");
        evaluation += record is { RetentionBefore: { } before, RetentionAfter: { } after } ? FormattableString.Invariant($", retention {Figure(before)} before and {Figure(after)} after") : "";
        evaluation += record.CopiedAnswers is { Copied: > 0 } copied ? $", {copied} unseen questions answered with a training row's answer" : "";
        return FormattableString.Invariant($"{record.StepCount:N0} {(record.StepCount == 1 ? "step" : "steps")} in {Time(record.Duration)}, loss {Figure(record.FinalLoss)}{best}{evaluation}");
    }

    /// <summary>A loss as it is told: what rounds to zero, as a policy's often does, has no sign.</summary>
    internal static string Figure(double loss) => loss.ToString("0.0000;-0.0000;0.0000", CultureInfo.InvariantCulture);

    private static string Time(TimeSpan time) => FormattableString.Invariant($"{(int)time.TotalHours}:{time:mm\\:ss}");

    private void Say(FormattableString text) => _output!.WriteLine(text.ToString(CultureInfo.InvariantCulture));
}
