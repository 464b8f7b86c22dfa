namespace Peft.Training;

/// <summary>
/// How long the rest of a training will take, told by the steps behind it. Not by those in which .NET compiled: a process's first seconds go to the engine's choice of kernels, to
/// memory from the system and to code that is compiled, and then compiled again in the background because it proved hot, which takes a core from the step; how much it took is
/// known. Steps of more tokens take longer, as far as those that were made show it; evaluations, which come more rarely than steps, are counted for themselves.
/// </summary>
/// <param name="firstStep">Steps that were made before.</param>
/// <param name="totalSteps">Steps of the whole training.</param>
/// <param name="evaluations">Evaluations to come, those excepted that come by time.</param>
internal sealed class RemainingTime(int firstStep, int totalSteps, int evaluations)
{
    private const int WarmUpSteps = 2;

    // Of a step's seconds: less of it isn't seen beside what steps differ by.
    private const double MostCompiled = 0.05;

    // A forward pass alone, of the three products that a row which is learnt takes.
    private const double EvaluationShare = 1 / 3.0;

    private readonly Sums _settled = new();
    private Sums _leastCompiled = new();
    private double _leastShare = double.PositiveInfinity;
    private double _evaluated;
    private int _evaluations;
    private int _toCome = evaluations;
    private readonly int _firstStep = firstStep;
    private int _steps = firstStep;
    private double _seconds;
    private double _compiled;
    private long _tokens;

    /// <summary>Rows of an evaluation beside those of a step: tells what evaluations take before there was one.</summary>
    public double EvaluatedRowsPerStep { get; init; }

    /// <summary>Tokens of the steps of this training, those that were made before excepted; null where nobody knows.</summary>
    public double? Tokens { get; init; }

    /// <summary>A step was made.</summary>
    /// <param name="steps">Steps that are made.</param>
    /// <param name="elapsed">Seconds since the training began or went on, with evaluations.</param>
    /// <param name="tokens">Tokens of this one.</param>
    /// <param name="compiled">Seconds that the process has compiled, since its start or any other time.</param>
    public void AfterStep(int steps, double elapsed, long tokens = 0, double compiled = 0)
    {
        var seconds = elapsed - _evaluated - _seconds;
        var share = steps - _firstStep <= WarmUpSteps ? double.MaxValue : (compiled - _compiled) / Math.Max(seconds, 1e-9);
        (_steps, _seconds, _compiled, _tokens) = (steps, _seconds + seconds, compiled, _tokens + tokens);
        if (share < MostCompiled)
        {
            _settled.Add(seconds, tokens);
        }
        else if (share <= _leastShare)
        {
            (_leastCompiled, _leastShare) = (new Sums(), share);
            _leastCompiled.Add(seconds, tokens);
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
            var left = totalSteps - _steps;
            var known = _settled.Count > 0 ? _settled : _leastCompiled;
            var step = known.SecondsOf(Tokens is { } all && left > 0 ? (all - _tokens) / left : null);
            var evaluation = _evaluations > 0 ? _evaluated / _evaluations : step * EvaluatedRowsPerStep * EvaluationShare;
            return (step * left) + (evaluation * _toCome);
        }
    }

    /// <summary>Sums over steps, for the line through their seconds by their tokens.</summary>
    private sealed class Sums
    {
        private double _seconds, _tokens, _products, _squares;

        public int Count { get; private set; }

        public void Add(double seconds, double tokens)
        {
            Count++;
            _seconds += seconds;
            _tokens += tokens;
            _products += seconds * tokens;
            _squares += tokens * tokens;
        }

        /// <summary>Seconds of a step of so many tokens. A token costs something between nothing, where steps take time by their number, and its share of all of it.</summary>
        public double SecondsOf(double? tokens)
        {
            var (seconds, mean) = (_seconds / Math.Max(1, Count), _tokens / Math.Max(1, Count));
            var spread = _squares - (mean * _tokens);
            return tokens > 0 && spread > 1e-9 * _squares
                ? seconds + (Math.Clamp((_products - (mean * _seconds)) / spread, 0, seconds / mean) * (tokens.Value - mean))
                : seconds;
        }
    }
}
