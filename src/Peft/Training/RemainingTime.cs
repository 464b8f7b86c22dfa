namespace Peft.Training;

/// <summary>
/// How long the rest of a training will take, told by the steps behind it: the first ones, which also take memory from the system and choose kernels, are left out, and evaluations,
/// which come more rarely than steps, are counted for themselves.
/// </summary>
/// <param name="firstStep">Steps that were made before.</param>
/// <param name="totalSteps">Steps of the whole training.</param>
/// <param name="evaluations">Evaluations to come, those excepted that come by time.</param>
internal sealed class RemainingTime(int firstStep, int totalSteps, int evaluations)
{
    private const int WarmUpSteps = 2;

    // A forward pass alone, of the three products that a row which is learnt takes.
    private const double EvaluationShare = 0.4;

    private double _evaluated;
    private int _evaluations;
    private int _toCome = evaluations;
    private (double Seconds, int Step) _warmedUp = (0, firstStep);
    private double _seconds;
    private int _steps = firstStep;
    private readonly int _firstStep = firstStep;

    /// <summary>Rows of an evaluation beside those of a step: tells what evaluations take before there was one.</summary>
    public double EvaluatedRowsPerStep { get; init; }

    /// <summary>A step was made.</summary>
    /// <param name="steps">Steps that are made.</param>
    /// <param name="elapsed">Seconds since the training began or went on, with evaluations.</param>
    public void AfterStep(int steps, double elapsed)
    {
        (_steps, _seconds) = (steps, elapsed - _evaluated);
        if (steps - _firstStep == WarmUpSteps)
        {
            _warmedUp = (_seconds, steps);
        }
    }

    /// <summary>An evaluation was made.</summary>
    /// <param name="seconds">What it took.</param>
    public void AfterEvaluation(double seconds)
    {
        _evaluated += seconds;
        _evaluations++;
        _toCome = Math.Max(0, _toCome - 1);
    }

    /// <summary>Seconds to the end.</summary>
    public double Seconds
    {
        get
        {
            var (from, count) = _steps > _warmedUp.Step ? (_warmedUp.Seconds, _steps - _warmedUp.Step) : (0, Math.Max(1, _steps - _firstStep));
            var step = (_seconds - from) / count;
            var evaluation = _evaluations > 0 ? _evaluated / _evaluations : step * EvaluatedRowsPerStep * EvaluationShare;
            return (step * (totalSteps - _steps)) + (evaluation * _toCome);
        }
    }
}
