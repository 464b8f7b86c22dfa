using System.Management.Automation;
using Peft.Cmdlets.Pipeline;
using Peft.Training;
using Peft.Training.Reports;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Hands each step and each evaluation to a script block, as <c>$_</c>, in the caller's runspace. What it fails in is said once; the training goes on.</summary>
/// <param name="script">The script block, whose arguments are the record and the adapter's name.</param>
/// <param name="name">The adapter's name.</param>
/// <param name="output">Where the caller's runspace is reached.</param>
internal sealed class ScriptObserver(ScriptBlock script, string name, WorkOutput output) : ITrainingObserver
{
    private bool _hasFailed;

    /// <inheritdoc/>
    public void OnStep(StepRecord step) => Call(step);

    /// <inheritdoc/>
    public void OnEvaluation(EvaluationRecord evaluation) => Call(evaluation);

    /// <inheritdoc/>
    public void Dispose()
    {
    }

    private void Call(object record) => output.Do(cmdlet =>
    {
        try
        {
            script.InvokeWithContext(null, [new PSVariable("_", record)], record, name);
        }
        catch (RuntimeException error)
        {
            if (!_hasFailed)
            {
                cmdlet.WriteWarning($"-LogTo: the script block failed: {error.Message} The training goes on.");
            }

            _hasFailed = true;
        }
    });
}
