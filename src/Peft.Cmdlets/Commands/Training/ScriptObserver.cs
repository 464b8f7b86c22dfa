using System.Management.Automation;
using Peft.Cmdlets.Pipeline;
using Peft.Training;
using Peft.Training.Reports;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Hands each step and each evaluation to a script block, as <c>$_</c>, in the caller's runspace. What it fails in is said once; the training goes on.</summary>
internal sealed class ScriptObserver(ScriptBlock script, WorkOutput output) : ITrainingObserver
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
            script.InvokeWithContext(null, [new PSVariable("_", record)], record);
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
