using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Generation;
using Peft.Models;
using Peft.Training.Data;
using Peft.Training.Evaluation;

namespace Peft.Cmdlets.Commands.Text;

/// <summary>Measure-Perplexity: how well a model predicts a text.</summary>
[Cmdlet(VerbsDiagnostic.Measure, "Perplexity", DefaultParameterSetName = ModelSet)]
[OutputType(typeof(PerplexityResult))]
public sealed class MeasurePerplexityCommand : TextModelCommand, IRunsAsJob
{
    /// <summary>Works in the background of this process and puts out a job at once: Receive-Job, Wait-Job, Stop-Job and Remove-Job take it. Its output are the live objects; script blocks among the parameters see no variables of the caller's.</summary>
    [Parameter]
    public SwitchParameter AsJob { get; set; }

    /// <summary>Texts to measure, or files from Get-ChildItem, each on its own. Of a data set from Import-TrainingDataset the tokens are measured that a training would learn.</summary>
    [Parameter(Position = 0, ValueFromPipeline = true)]
    [Alias("Dataset")]
    [ValidateNotNullOrEmpty]
    public PSObject[] Text { get; set; } = [];

    /// <summary>Text files to measure, each on its own, in the encoding that their bytes tell; wildcards are allowed.</summary>
    [Parameter]
    [SupportsWildcards]
    [ValidateNotNullOrEmpty]
    public string[] Path { get; set; } = [];

    /// <summary>Text files to measure, taken as they are written.</summary>
    [Parameter]
    [Alias("PSPath", "LP")]
    [ValidateNotNullOrEmpty]
    public string[] LiteralPath { get; set; } = [];

    /// <summary>Adapters that act for this command, whatever is active on the model; wildcards are allowed, and <c>base</c> for none.</summary>
    [Parameter(ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterOrBaseCompleter))]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_name")]
    public string[]? AdapterName { get; set; }

    /// <summary>Tokens that are seen at once; of a data set, those at which its rows are cut.</summary>
    [Parameter]
    [ValidateRange(2, int.MaxValue)]
    [PSDefaultValue(Help = "the model's longest context, at most 2048")]
    public int? WindowLength { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        // The model itself, or the adapter, arrives as a text as well where it comes down the pipeline.
        PSObject[] texts = [.. Text.Where(static text => text.BaseObject is not (PeftModel or PeftAdapter))];
        if (texts.Length == 0 && Path.Length == 0 && LiteralPath.Length == 0)
        {
            throw new PeftException("TextMissing", "There is no text to measure.") { RecommendedAction = "Give a text, or a file with -Path." };
        }

        var selection = SelectionOf(AdapterName);
        Each(texts.Select(static text => text.BaseObject).OfType<TrainingDataset>(), data => Measure(data, selection));
        Each(texts.Where(static text => text.BaseObject is not TrainingDataset), text => Measure(() => text.BaseObject is FileInfo file ? TextFile.Read(file.FullName) : TextInput.Text(text), selection));
        Each(Path, pattern => Each(PathResolution.Resolve(this, pattern), path => Measure(() => TextFile.Read(path), selection)));
        Each(LiteralPath, given =>
        {
            var path = PathResolution.ResolveLiteral(this, given);
            Measure(() => TextFile.Read(path), selection);
        });
    }

    private void Measure(TrainingDataset data, AdapterSelection? selection) => WriteObject(Run(output =>
    {
        var progress = new ProgressLine(output, "Measuring perplexity");
        var tokenized = data.Tokenize(TheModel.RequiredTokenizer, new TokenizationOptions { MaxLength = WindowLength }, cancellation: output.Cancellation);
        tokenized.Messages.ForEach(output.WriteWarning);
        var result = DatasetPerplexity.Measure(
            TheModel, tokenized, selection, onProgress: (done, total) => progress.Show(done, total, FormattableString.Invariant($"{done:N0} of {total:N0} rows")), cancellation: output.Cancellation);
        progress.Complete();
        return result;
    }));

    private void Measure(Func<string> text, AdapterSelection? selection) => WriteObject(Run(output =>
    {
        var progress = new ProgressLine(output, "Measuring perplexity");
        var result = PerplexityResult.Measure(
            TheModel, text(), WindowLength, selection, (done, total) => progress.Show(done, total, FormattableString.Invariant($"{done:N0} of {total:N0} tokens")), output.Cancellation);
        progress.Complete();
        return result;
    }));
}
