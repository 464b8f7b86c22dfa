namespace Peft.Training.Reports;

/// <summary>Hears what a training does as it does it: a tracker of one's own. Called on the training's thread, between steps.</summary>
public interface ITrainingObserver : IDisposable
{
    /// <summary>A step was made.</summary>
    void OnStep(StepRecord step);

    /// <summary>The held-out rows were evaluated.</summary>
    void OnEvaluation(EvaluationRecord evaluation);
}
