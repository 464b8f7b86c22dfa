namespace Peft.Adapters.Model;

/// <summary>What a training leaves on its adapter; the trainer's own record says more.</summary>
public interface ITrainingRecord
{
    /// <summary>Number of steps.</summary>
    int StepCount { get; }

    /// <summary>The last step's loss.</summary>
    double FinalLoss { get; }

    /// <summary>Time of the training, that of earlier runs included.</summary>
    TimeSpan Duration { get; }
}
