using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>DPM-Solver and DPM-Solver++ with predictions of earlier steps (Lu et al. 2022), with noise on the way or without.</summary>
public sealed class DpmSolverMultistepScheduler : LogSnrScheduler
{
    private readonly DpmAlgorithm _algorithm;

    internal DpmSolverMultistepScheduler(SchedulerConfig config)
        : base(config) => _algorithm = DpmAlgorithm.Of(config);

    private bool IsLu => Config.Flag("use_lu_lambdas", false) && !Config.Flag("use_karras_sigmas", false);

    private protected override SigmaCurve? Curve(int steps)
    {
        if (!IsLu)
        {
            return base.Curve(steps);
        }

        var (max, min) = (Math.Log(Levels.Sigma(Levels.Count - 1)), Math.Log(Levels.Sigma(0)));
        return new(true, [.. TimestepSpacing.Line(max, min, steps).Select(Math.Exp)]);
    }

    private protected override double Whole(double timestep, SigmaCurve curve) =>
        Config.Word("beta_schedule", "linear") == "squaredcos_cap_v2" ? Math.Truncate(timestep) : base.Whole(timestep, curve);

    private protected override SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        var original = _algorithm.PredictsOriginal ? Original(output, sample) : null;
        Outputs.Add(original ?? Epsilon(output, sample));
        var (from, to) = (Level(Index), Level(Index + 1));
        var step = ExponentialStep.Between(from, to, _algorithm.PredictsOriginal, _algorithm.IsStochastic);
        var drawn = _algorithm.IsStochastic ? noise() : null;
        var order = OrderNow(Config.Flag("euler_at_final", false) || Sigmas[^1] == 0);
        if (order == 1)
        {
            return new(step.Apply(sample, drawn, (step.First, Outputs[0])), original);
        }

        var h = to.Lambda - from.Lambda;
        var r0 = (from.Lambda - Level(Index - 1).Lambda) / h;
        var slope = Terms.Sum((1 / r0, Outputs[0]), (-1 / r0, Outputs[1]));
        if (order == 2)
        {
            return new(step.Apply(sample, drawn, (step.First, Outputs[0]), (_algorithm.IsHeun ? step.Second : step.Midpoint, slope)), original);
        }

        var r1 = (Level(Index - 1).Lambda - Level(Index - 2).Lambda) / h;
        var change = slope.sub(Terms.Sum((1 / r1, Outputs[1]), (-1 / r1, Outputs[2])));
        slope = slope.add(change, r0 / (r0 + r1));
        return new(step.Apply(sample, drawn, (step.First, Outputs[0]), (step.Second, slope), (step.Third / (r0 + r1), change)), original);
    }
}
