using System.Management.Automation;
using Peft.Generation;
using Peft.Module.Completion;

namespace Peft.Module.Commands;

/// <summary>Measure-Perplexity: how well a model predicts a text.</summary>
[Cmdlet(VerbsDiagnostic.Measure, "Perplexity", DefaultParameterSetName = ModelSet)]
[OutputType(typeof(PerplexityResult))]
public sealed class MeasurePerplexityCommand : TextModelCommand
{
    /// <summary>Texts to measure, each on its own.</summary>
    [Parameter(Position = 0, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    [ValidateNotNullOrEmpty]
    public string[]? Text { get; set; }

    /// <summary>Text files to measure, each on its own; wildcards are allowed.</summary>
    [Parameter]
    [SupportsWildcards]
    [ValidateNotNullOrEmpty]
    public string[]? Path { get; set; }

    /// <summary>Adapters that act for this command, whatever is active on the model; <c>base</c> for none.</summary>
    [Parameter(ParameterSetName = ModelSet)]
    [ArgumentCompleter(typeof(AdapterOrBaseCompleter))]
    [ValidateNotNullOrEmpty]
    public string[]? AdapterName { get; set; }

    /// <summary>Tokens that are seen at once.</summary>
    [Parameter]
    [ValidateRange(2, int.MaxValue)]
    [PSDefaultValue(Help = "the model's longest context, at most 2048")]
    public int? WindowLength { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        if (Text is null && Path is null)
        {
            throw new PeftException("TextMissing", "There is no text to measure.") { RecommendedAction = "Give a text, or a file with -Path." };
        }

        var selection = SelectionOf(AdapterName);
        var texts = (Text ?? []).Concat((Path ?? []).SelectMany(path => PathResolution.Resolve(this, path)).Select(File.ReadAllText));
        foreach (var text in texts)
        {
            WriteObject(Run(output =>
            {
                var progress = new ProgressLine(output, "Measuring perplexity");
                var result = PerplexityResult.Measure(
                    TheModel, text, WindowLength, selection, done => progress.Show(done, total: 0, $"{done} tokens"), output.Cancellation);
                progress.Complete();
                return result;
            }));
        }
    }
}
