using System.Globalization;
using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>
/// Takes a sample from noise to an image, one call of the model after the other: <see cref="Start"/>, then while it is not <see cref="IsFinished"/>
/// the model on <see cref="ScaleInput"/> of the sample at <see cref="Timestep"/>, and <see cref="Step"/> with what it gave. Not thread-safe.
/// </summary>
public abstract class NoiseScheduler : IDisposable
{
    private protected NoiseScheduler(SchedulerConfig config)
    {
        ArgumentNullException.ThrowIfNull(config);
        Config = config;
        Prediction = config.Prediction;
    }

    /// <summary>The configuration that it was made of.</summary>
    public SchedulerConfig Config { get; }

    /// <summary>What the model predicts.</summary>
    public PredictionKind Prediction { get; }

    /// <summary>What the model is told at each of its calls, from the noisiest down.</summary>
    public IReadOnlyList<double> Timesteps { get; private protected set; } = [];

    /// <summary>The noise beside one unit of the original before each step, and after the last; empty where a scheduler doesn't think in these.</summary>
    public IReadOnlyList<double> Sigmas { get; private protected set; } = [];

    /// <summary>Calls of the model for one step; 2 for methods of second order.</summary>
    public virtual int CallsPerStep => 1;

    /// <summary>Deviation of the noise that a run starts from.</summary>
    public virtual double InitialNoise => 1;

    /// <summary>How much of the noise is drawn anew where a scheduler lets one choose (DDIM 0, TCD 0.3), from 0 to 1.</summary>
    public virtual double Eta { get; set; }

    /// <summary>The call that comes next, counted from 0.</summary>
    public int Index { get; private set; }

    /// <summary>Whether all calls were made.</summary>
    public bool IsFinished => Index >= Timesteps.Count;

    /// <summary>What the model is told at the next call.</summary>
    public double Timestep => Timesteps[Index];

    /// <summary>Begins a run.</summary>
    /// <param name="steps">Number of steps.</param>
    /// <param name="first">The step to begin with, counted from 0: later ones for images that are changed and not made anew.</param>
    /// <exception cref="PeftException"><c>SchedulerStepsInvalid</c>.</exception>
    public void Start(int steps, int first = 0)
    {
        var most = Config.TrainTimesteps;
        if (steps < 1 || steps > most || first < 0 || first >= steps)
        {
            throw new PeftException("SchedulerStepsInvalid", string.Create(CultureInfo.InvariantCulture, $"A run of {steps} steps that begins with step {first} can't be made: the model knows {most} noise levels."))
            {
                Target = steps,
            };
        }

        Reset();
        Prepare(steps);
        Index = Math.Min(first * CallsPerStep, Timesteps.Count - 1);
    }

    /// <summary>The sample as the model wants it at the next call.</summary>
    /// <param name="sample">The sample.</param>
    public virtual Tensor ScaleInput(Tensor sample) => sample;

    /// <summary>Takes the sample one call further.</summary>
    /// <param name="output">What the model gave, of the sample's shape.</param>
    /// <param name="sample">The sample that it was given, before <see cref="ScaleInput"/>.</param>
    /// <param name="noise">Draws standard normal noise of the sample's shape, where the scheduler asks for it.</param>
    /// <exception cref="InvalidOperationException">All calls were made.</exception>
    public SchedulerStep Step(Tensor output, Tensor sample, Func<Tensor> noise)
    {
        if (IsFinished)
        {
            throw new InvalidOperationException("The run is over; start another one.");
        }

        var next = Advance(output.to(ScalarType.Float32), sample.to(ScalarType.Float32), noise);
        Index++;
        return next with { Sample = next.Sample.to(output.dtype) };
    }

    /// <summary>An original with the noise that the next call expects.</summary>
    /// <param name="original">The original.</param>
    /// <param name="noise">Standard normal noise of its shape.</param>
    public abstract Tensor AddNoise(Tensor original, Tensor noise);

    /// <inheritdoc/>
    public void Dispose()
    {
        Reset();
        GC.SuppressFinalize(this);
    }

    /// <summary>Computes timesteps and levels.</summary>
    private protected abstract void Prepare(int steps);

    /// <summary>One call, in float32.</summary>
    private protected abstract SchedulerStep Advance(Tensor output, Tensor sample, Func<Tensor> noise);

    /// <summary>Forgets what earlier calls left.</summary>
    private protected virtual void Reset()
    {
    }
}

/// <summary>What a call made.</summary>
/// <param name="Sample">The sample for the next call.</param>
/// <param name="Original">What the image is believed to be, for previews; null where the scheduler doesn't say.</param>
public sealed record SchedulerStep(Tensor Sample, Tensor? Original = null);

/// <summary>What earlier calls left: the last few tensors, outliving the scopes they were made in.</summary>
internal sealed class TensorHistory(int capacity)
{
    private readonly List<Tensor> _tensors = [];

    /// <summary>How many there are.</summary>
    public int Count => _tensors.Count;

    /// <summary>One of them: 0 is the newest, 1 the one before.</summary>
    public Tensor this[int age] => _tensors[_tensors.Count - 1 - age];

    /// <summary>Keeps one, and drops the oldest beyond the capacity.</summary>
    public void Add(Tensor tensor)
    {
        _tensors.Add(tensor.detach().DetachFromDisposeScope());
        if (_tensors.Count > capacity)
        {
            _tensors[0].Dispose();
            _tensors.RemoveAt(0);
        }
    }

    /// <summary>Drops all.</summary>
    public void Clear()
    {
        foreach (var tensor in _tensors)
        {
            tensor.Dispose();
        }

        _tensors.Clear();
    }
}
