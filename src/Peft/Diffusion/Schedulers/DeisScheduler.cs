using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>Diffusion exponential integrator sampler (Zhang and Chen 2023), its multistep form in log ρ: the noise is a polynomial in log ρ through the predictions, integrated over ρ = σ / α.</summary>
public sealed class DeisScheduler : LogSnrScheduler
{
    internal DeisScheduler(SchedulerConfig config)
        : base(config)
    {
    }

    // Its formulas divide by the last level, which is never zero.
    private protected override double Last(double? curve) => curve ?? Levels.Sigma(0);

    private protected override SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        var original = Original(output, sample);
        var (from, to) = (Level(Index), Level(Index + 1));
        Outputs.Add(PredictionKind.Sample.Noise(original, sample, from.Alpha, from.Sigma));
        var next = Terms.Sum((to.Alpha / from.Alpha, sample));
        var order = OrderNow(endsInEuler: false);
        for (var age = 0; age < order; age++)
        {
            next = next.add(Outputs[age], to.Alpha * Integral(age, order));
        }

        return new(next, original);
    }

    // ∫ of the Lagrange polynomial of one prediction in y = log ρ: with dρ = e^y dy its antiderivative is e^y (P - P' + P'' - …).
    private double Integral(int age, int order)
    {
        var nodes = Enumerable.Range(0, order).Where(other => other != age).Select(other => Math.Log(Sigmas[Index - other])).ToArray();
        var own = Math.Log(Sigmas[Index - age]);
        return (At(Math.Log(Sigmas[Index + 1])) - At(Math.Log(Sigmas[Index]))) / nodes.Aggregate(1.0, (product, node) => product * (own - node));

        double At(double y) => Math.Exp(y) * nodes.Length switch
        {
            0 => 1,
            1 => y - nodes[0] - 1,
            _ => ((y - nodes[0]) * (y - nodes[1])) - ((2 * y) - nodes[0] - nodes[1]) + 2,
        };
    }
}
