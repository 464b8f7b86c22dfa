using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>
/// A step of an exponential integrator from one level to another (Lu et al. 2022): the sample is scaled, the linear part is solved exactly, and a Taylor
/// series of the prediction D0 + D1 + D2 is integrated. The four algorithms differ in four numbers alone.
/// </summary>
internal readonly record struct ExponentialStep
{
    private readonly double _sample;
    private readonly double _scale;
    private readonly double _exponent;
    private readonly double _noise;

    private ExponentialStep(double sample, double scale, double exponent, double noise) =>
        (_sample, _scale, _exponent, _noise) = (sample, scale, exponent, noise);

    /// <summary>Weight of the prediction.</summary>
    public double First => -_scale * Growth;

    /// <summary>Weight of its first difference, where it is taken at the middle.</summary>
    public double Midpoint => First / 2;

    /// <summary>Weight of its first difference, integrated exactly.</summary>
    public double Second => -_scale * ((Growth / _exponent) - 1);

    // diffusers has the half of its stochastic third order with the other sign, so that it doesn't vanish for short steps; k-diffusion has it as here.

    /// <summary>Weight of its second difference.</summary>
    public double Third => -_scale * (((Growth - _exponent) / (_exponent * _exponent)) - 0.5);

    // Exact for small exponents too.
    private double Growth => Math.Abs(_exponent) < 1e-5 ? _exponent + (_exponent * _exponent / 2) : Math.Exp(_exponent) - 1;

    /// <summary>The step of an algorithm.</summary>
    /// <param name="from">The level at which the sample is.</param>
    /// <param name="to">The level to reach.</param>
    /// <param name="predictsOriginal">Whether the originals are integrated, or the noise.</param>
    /// <param name="isStochastic">Whether noise is added on the way.</param>
    public static ExponentialStep Between(SnrLevel from, SnrLevel to, bool predictsOriginal, bool isStochastic)
    {
        var h = to.Lambda - from.Lambda;
        return (predictsOriginal, isStochastic) switch
        {
            (true, false) => new(to.Sigma / from.Sigma, to.Alpha, -h, 0),
            (true, true) => new(to.Sigma / from.Sigma * Math.Exp(-h), to.Alpha, -2 * h, to.Sigma * Math.Sqrt(1 - Math.Exp(-2 * h))),
            (false, false) => new(to.Alpha / from.Alpha, to.Sigma, h, 0),
            (false, true) => new(to.Alpha / from.Alpha, 2 * to.Sigma, h, to.Sigma * Math.Sqrt(Math.Exp(2 * h) - 1)),
        };
    }

    /// <summary>The sample at the level that is reached.</summary>
    /// <param name="sample">The sample at the level where the step begins.</param>
    /// <param name="noise">Standard normal noise; null for none.</param>
    /// <param name="terms">The predictions and their differences with their weights.</param>
    public Tensor Apply(Tensor sample, Tensor? noise, params ReadOnlySpan<(double Weight, Tensor Value)> terms)
    {
        var moved = Terms.Sum([(_sample, sample), .. terms]);
        return noise is null || _noise == 0 ? moved : moved.add(noise, _noise);
    }
}
