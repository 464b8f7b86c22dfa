using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>DPM-Solver and DPM-Solver++ in steps of several calls, each of which starts from the same sample (Lu et al. 2022).</summary>
public sealed class DpmSolverSinglestepScheduler : LogSnrScheduler
{
    private readonly DpmAlgorithm _algorithm;
    private readonly TensorHistory _start = new(1);
    private int[] _orders = [];

    internal DpmSolverSinglestepScheduler(SchedulerConfig config)
        : base(config) => _algorithm = DpmAlgorithm.Of(config);

    private protected override string Spacing => "linspace";

    private protected override void Reset()
    {
        base.Reset();
        _start.Clear();
    }

    private protected override void Prepare(int steps)
    {
        base.Prepare(steps);
        var endsAtZero = Sigmas[^1] == 0;
        var endsLower = Config.Flag("lower_order_final", false) || endsAtZero || steps % Order != 0;
        _orders = [.. Enumerable.Range(0, steps).Select(i => (i % Order) + 1)];
        if (endsLower && steps % Order == 0)
        {
            // A whole group at the end becomes smaller ones: 1 and 1, or 1, 2 and 1.
            _orders[^1] = 1;
        }

        if (endsAtZero)
        {
            _orders[^1] = 1;
        }
    }

    private protected override SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        var original = _algorithm.PredictsOriginal ? Original(output, sample) : null;
        Outputs.Add(original ?? Epsilon(output, sample));
        var order = Math.Min(_orders[Index], Outputs.Count);
        if (order == 1)
        {
            _start.Add(sample);
        }

        var (from, to) = (Level(Index - order + 1), Level(Index + 1));
        var step = ExponentialStep.Between(from, to, _algorithm.PredictsOriginal, _algorithm.IsStochastic);
        var drawn = _algorithm.IsStochastic ? noise() : null;
        var first = (step.First, Outputs[order - 1]);
        if (order == 1)
        {
            return new(step.Apply(_start[0], drawn, first), original);
        }

        var h = to.Lambda - from.Lambda;
        var r0 = (Level(Index).Lambda - from.Lambda) / h;
        var slope = Terms.Sum((1 / r0, Outputs[0]), (-1 / r0, Outputs[order - 1]));
        if (order == 2 || !_algorithm.IsHeun)
        {
            return new(step.Apply(_start[0], drawn, first, (order == 2 && !_algorithm.IsHeun ? step.Midpoint : step.Second, slope)), original);
        }

        var r1 = (Level(Index - 1).Lambda - from.Lambda) / h;
        var earlier = Terms.Sum((1 / r1, Outputs[1]), (-1 / r1, Outputs[2]));
        return new(
            step.Apply(
                _start[0], drawn, first, (step.Second, Terms.Sum((r0 / (r0 - r1), earlier), (-r1 / (r0 - r1), slope))), (2 * step.Third / (r0 - r1), slope.sub(earlier))),
            original);
    }
}
