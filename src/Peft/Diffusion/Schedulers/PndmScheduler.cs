using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>
/// Pseudo numerical methods for diffusion models (Liu et al. 2022): linear multistep steps, after three steps of Runge-Kutta with four calls each,
/// or (<c>skip_prk_steps</c>) after a first step that is made twice.
/// </summary>
public sealed class PndmScheduler : VarianceScheduler
{
    private const int Order = 4;
    private readonly bool _skipsRungeKutta;
    private readonly TensorHistory _outputs = new(Order);
    private readonly TensorHistory _start = new(1);
    private readonly TensorHistory _sum = new(1);
    private int _calls;
    private int _rungeKuttaCalls;

    internal PndmScheduler(SchedulerConfig config)
        : base(config, endsAtOne: false)
    {
        _skipsRungeKutta = config.Flag("skip_prk_steps", false);
        if (Prediction == PredictionKind.Sample)
        {
            throw SchedulerConfig.NotSupported("prediction_type", "sample");
        }
    }

    private protected override double[] Spaced(int steps)
    {
        var points = base.Spaced(steps);
        _rungeKuttaCalls = 0;
        if (_skipsRungeKutta || steps < Order)
        {
            return steps == 1 ? points : [points[0], points[1], .. points[1..]];
        }

        // Each Runge-Kutta step visits its start, twice the middle, and its end, which is the next one's start.
        var half = Stride / 2;
        double[] visited = [.. points[..Order].SelectMany(point => new[] { point + half, point })];
        double[] calls = [.. visited[1..].SelectMany(static point => new[] { point, point })];
        calls = calls[1..^1];
        _rungeKuttaCalls = calls.Length;
        return [.. calls, .. points[(Order - 1)..]];
    }

    private protected override void Reset()
    {
        _outputs.Clear();
        _start.Clear();
        _sum.Clear();
        _calls = 0;
    }

    private protected override SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        var next = _calls < _rungeKuttaCalls ? RungeKutta(output, sample) : Multistep(output, sample);
        _calls++;
        return new(next);
    }

    private Tensor RungeKutta(Tensor output, Tensor sample)
    {
        var part = _calls % 4;
        if (part == 0)
        {
            _outputs.Add(output);
            _start.Add(sample);
            _sum.Clear();
        }

        var weighted = output.mul(part is 0 or 3 ? 1.0 / 6 : 1.0 / 3);
        var sum = part == 0 ? weighted : _sum[0].add(weighted);
        _sum.Add(sum);
        var from = (int)Timesteps[_calls / 4 * 4];
        var to = (int)Timestep - (_calls % 2 == 1 ? 0 : Stride / 2);
        return Transfer(_start[0], part == 3 ? sum : output, from, to);
    }

    private Tensor Multistep(Tensor output, Tensor sample)
    {
        var (from, to) = ((int)Timestep, (int)Timestep - Stride);
        if (_calls == 1)
        {
            (from, to) = (from + Stride, from);
            output = Terms.Sum((0.5, output), (0.5, _outputs[0]));
            sample = _start[0];
        }
        else
        {
            _outputs.Add(output);
            _start.Add(sample);
            output = _outputs.Count switch
            {
                1 => output,
                2 => Terms.Sum((1.5, _outputs[0]), (-0.5, _outputs[1])),
                3 => Terms.Sum((23.0 / 12, _outputs[0]), (-16.0 / 12, _outputs[1]), (5.0 / 12, _outputs[2])),
                _ => Terms.Sum((55.0 / 24, _outputs[0]), (-59.0 / 24, _outputs[1]), (37.0 / 24, _outputs[2]), (-9.0 / 24, _outputs[3])),
            };
        }

        return Transfer(sample, output, from, to);
    }

    // Equation 9 of the paper.
    private Tensor Transfer(Tensor sample, Tensor output, int from, int to)
    {
        var (alpha, next) = (Alpha(from), Alpha(to));
        var epsilon = Prediction.Noise(output, sample, Math.Sqrt(alpha), Math.Sqrt(1 - alpha));
        var divisor = (alpha * Math.Sqrt(1 - next)) + Math.Sqrt(alpha * (1 - alpha) * next);
        return Terms.Sum((Math.Sqrt(next / alpha), sample), (-(next - alpha) / divisor, epsilon));
    }
}
