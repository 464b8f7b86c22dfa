using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>A linear multistep method: the slope between two levels is the polynomial through the last four slopes.</summary>
public sealed class LmsScheduler : SigmaScheduler
{
    private const int Order = 4;

    // Gauss-Legendre's three points integrate polynomials up to degree 5 exactly.
    private static readonly (double Point, double Weight)[] s_quadrature = [(-Math.Sqrt(0.6), 5.0 / 9), (0, 8.0 / 9), (Math.Sqrt(0.6), 5.0 / 9)];

    private readonly TensorHistory _slopes = new(Order);

    internal LmsScheduler(SchedulerConfig config)
        : base(config)
    {
    }

    private protected override void Reset() => _slopes.Clear();

    private protected override SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        var original = Original(output, sample, Sigma);
        _slopes.Add(Slope(sample, original, Sigma));
        var next = sample;
        for (var age = 0; age < _slopes.Count; age++)
        {
            next = next.add(_slopes[age], Coefficient(age, _slopes.Count));
        }

        return new(next, original);
    }

    // The integral of the Lagrange polynomial of one slope from this level to the next.
    private double Coefficient(int age, int order)
    {
        var (from, to) = (Sigmas[Index], Sigmas[Index + 1]);
        return s_quadrature.Sum(node => node.Weight * Lagrange((from + to + (node.Point * (to - from))) / 2)) * (to - from) / 2;

        double Lagrange(double sigma) => Enumerable.Range(0, order).Where(other => other != age)
            .Aggregate(1.0, (product, other) => product * (sigma - Sigmas[Index - other]) / (Sigmas[Index - age] - Sigmas[Index - other]));
    }
}
