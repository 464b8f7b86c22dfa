using Peft.Adapters.Model;
using Peft.Engine;
using Peft.Models;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>
/// What a training will take, known before it starts. Memory is the sum of what is counted off the model's tree: weights; what each linear layer of a block reads and gives, which both
/// passes need, for every token of the largest micro batch (with gradient checkpointing the blocks' inputs, and one block); four bytes each for value, gradient and the
/// optimiser's two moments of what is trained; a piece of the output layer's scores; and what the process occupies besides.
/// </summary>
public sealed record TrainingEstimate
{
    // What the runtime and the engine occupy before anything is computed, and what they take for it: measured.
    private const long IdleBytes = 190L << 20, EngineBytes = 55L << 20;
    private const int ScoreCopies = 3;

    // A block that runs again and its gradients, with what the allocator doesn't give back between blocks; measured.
    private const int BlocksAtOnce = 2;
    private const int BytesOfTrained = 16;
    private const double Uncertainty = 0.15;
    private const int ProductsOfFrozen = 2, OperationsOfProduct = 2;

    // Of the rate of large products: norms, attention and what stands between products take the rest.
    private const double ShareOfRate = 0.5;

    // What a linear layer comes to with its adapter, and the norms, attention and optimiser beside it, in calls of the engine's operators: what steps of few tokens take; measured.
    private const int CallsOfLayer = 280;

    /// <summary>Steps of the whole training.</summary>
    public required int Steps { get; init; }

    /// <summary>Tokens of the whole training, without padding; null where the data doesn't say.</summary>
    public long? Tokens { get; init; }

    /// <summary>Tokens of the largest micro batch, with padding; null where the data doesn't say.</summary>
    public long? BatchTokens { get; init; }

    /// <summary>Bytes of the weights.</summary>
    public required long WeightBytes { get; init; }

    /// <summary>Bytes that the backward pass needs of the forward pass, at their most.</summary>
    public required long ActivationBytes { get; init; }

    /// <summary>Bytes of what is trained, with gradients and the optimiser's moments.</summary>
    public required long OptimizerBytes { get; init; }

    /// <summary>Bytes of the output layer's scores.</summary>
    public required long ScoreBytes { get; init; }

    /// <summary>Bytes of the process besides: the runtime and the engine.</summary>
    public required long ProcessBytes { get; init; }

    /// <summary>The most bytes at one time.</summary>
    public long PeakBytes => WeightBytes + ActivationBytes + OptimizerBytes + ScoreBytes + ProcessBytes;

    /// <summary>Roughly how long it takes, by a product of matrices that was timed here; null where nothing was timed.</summary>
    public TimeSpan? Duration { get; init; }

    /// <summary>Estimates a training.</summary>
    /// <param name="model">The model.</param>
    /// <param name="trained">Number of trained parameters.</param>
    /// <param name="data">The data.</param>
    /// <param name="options">The options.</param>
    /// <param name="timesProducts">Whether a product is timed, for <see cref="Duration"/>.</param>
    public static TrainingEstimate Of(PeftModel model, long trained, ITrainingData data, TrainingOptions options, bool timesProducts = false)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(options);
        var (training, _) = TrainingPlan.Split(data.Count, options);
        var plan = new TrainingPlan(options, training, shapes: data.Shapes);
        var bytes = (options.Precision is "float32" ? ScalarType.Float32 : model.DataType).ElementSize();
        var longest = data.LongestRow;
        var batch = longest is { } length ? Math.Min(options.BatchSize, training.Length) * (long)length : (long?)null;
        var weights = model.Base.NamedParameters().Where(static named => named.Parameter.IsOwner).Sum(static named => named.Parameter.Value is { } value ? value.numel() * value.ElementSize : 0);
        var vocabulary = model.Base.VocabularySize;
        var perToken = Activations(model.Base, bytes, options.GradientCheckpointing);
        long? tokens = data.TokenTotal is { } all ? (long)(all * (double)plan.TotalSteps / plan.StepsPerEpoch * training.Length / data.Count) : null;
        return new TrainingEstimate
        {
            Steps = plan.TotalSteps,
            Tokens = tokens,
            BatchTokens = batch,
            WeightBytes = weights,
            ActivationBytes = (batch ?? 0) * perToken,
            OptimizerBytes = trained * BytesOfTrained,
            ScoreBytes = Math.Min(Head.ChunkRowsOf(vocabulary * bytes), batch ?? 0) * vocabulary * bytes * ScoreCopies,
            ProcessBytes = Math.Max(0, ProcessMemory.ResidentBytes - weights) is var resident && model.Device.type == DeviceType.CPU ? Math.Max(resident, IdleBytes) + EngineBytes : 0,
            Duration = timesProducts && tokens is { } count ? TimeSpan.FromSeconds(ProductSeconds(model, options, count) + (CallSeconds(model) * plan.TotalSteps * Math.Min(options.GradientAccumulation, plan.BatchesPerEpoch))) : null,
        };
    }

    /// <summary>Bytes that a training takes whatever its data is: the base's weights, loaded or not; value, gradient and the optimiser's moments of what is trained.</summary>
    /// <param name="model">The model.</param>
    /// <param name="trained">Number of trained parameters.</param>
    public static long StateBytes(PeftModel model, long trained)
    {
        ArgumentNullException.ThrowIfNull(model);
        return Owned(model).Sum(static parameter => parameter.Bytes) + (trained * BytesOfTrained);
    }

    /// <summary>The same where every parameter of the base is trained, in float32.</summary>
    /// <param name="model">The model.</param>
    public static long FullStateBytes(PeftModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return Owned(model).Sum(static parameter => parameter.Count) * BytesOfTrained;
    }

    /// <summary>What several trainings of one model take, by turns or side by side: the memory of the largest, and what all of them train.</summary>
    /// <param name="each">What each takes.</param>
    public static TrainingEstimate Of(IReadOnlyList<TrainingEstimate> each) => new()
    {
        Steps = each.Sum(static one => one.Steps),
        Tokens = each.Sum(static one => one.Tokens),
        BatchTokens = each.Max(static one => one.BatchTokens),
        WeightBytes = each.Max(static one => one.WeightBytes),
        ActivationBytes = each.Max(static one => one.ActivationBytes),
        OptimizerBytes = each.Sum(static one => one.OptimizerBytes),
        ScoreBytes = each.Max(static one => one.ScoreBytes),
        ProcessBytes = each.Max(static one => one.ProcessBytes),
        Duration = each.All(static one => one.Duration is not null) ? TimeSpan.FromSeconds(each.Sum(static one => one.Duration!.Value.TotalSeconds)) : null,
    };

    /// <summary>Refuses a training for which the memory isn't enough by more than the estimate may be wrong, and says what makes it fit.</summary>
    /// <param name="model">The model.</param>
    /// <param name="data">The data.</param>
    /// <param name="options">The options.</param>
    /// <param name="available">Bytes that the process may have in all; null for those that it has and those that are free.</param>
    /// <exception cref="PeftException"><c>TrainingMemoryInsufficient</c>.</exception>
    public void RefuseTooLarge(PeftModel model, ITrainingData data, TrainingOptions options, long? available = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        var room = available ?? (ProcessMemory.ResidentBytes + ProcessMemory.FreeBytes);
        if (PeakBytes * (1 - Uncertainty) <= room)
        {
            return;
        }

        TrainingEstimate With(TrainingOptions other) => Of(model, OptimizerBytes / BytesOfTrained, data, other);
        string advice;
        var recomputing = options with { GradientCheckpointing = true };
        if (!options.GradientCheckpointing && With(recomputing).PeakBytes <= room)
        {
            advice = FormattableString.Invariant($"-GradientCheckpointing takes {With(recomputing).PeakBytes / 1e6:N0} MB.");
        }
        else
        {
            var size = options.BatchSize;
            while (size > 1 && With(recomputing with { BatchSize = size }).PeakBytes > room)
            {
                size /= 2;
            }

            var smaller = recomputing with { BatchSize = size };
            advice = With(smaller).PeakBytes <= room
                ? FormattableString.Invariant($"-GradientCheckpointing -BatchSize {size} -GradientAccumulation {options.GradientAccumulation * (options.BatchSize / size)} makes the same steps in {With(smaller).PeakBytes / 1e6:N0} MB.")
                : FormattableString.Invariant($"Even one row at a time with -GradientCheckpointing takes {With(smaller).PeakBytes / 1e6:N0} MB: lower -MaxLength, import the model in bfloat16 or with -Quantization, or take a smaller one.");
        }

        throw new PeftException("TrainingMemoryInsufficient", FormattableString.Invariant(
            $"This training would take {PeakBytes / 1e6:N0} MB of memory, of which {room / 1e6:N0} MB are there: weights {WeightBytes / 1e6:N0}, activations of {BatchTokens:N0} tokens {ActivationBytes / 1e6:N0}, optimiser {OptimizerBytes / 1e6:N0}, scores {ScoreBytes / 1e6:N0}."))
        {
            Target = nameof(TrainingOptions.BatchSize),
            RecommendedAction = advice,
        };
    }

    /// <summary>Bytes that are kept for each token.</summary>
    private static long Activations(Module root, int bytes, bool checkpointing)
    {
        var blocks = new Dictionary<string, (long Kept, long Input)>(StringComparer.Ordinal);

        // A step's own backward pass makes as much once more as it kept, one step after another.
        var passing = root.Descendants().Select(module => module.KeptBytes(bytes)).DefaultIfEmpty().Max();
        foreach (var module in root.Descendants())
        {
            if (BlockOf(module.Path) is not { } block)
            {
                continue;
            }

            // Layers of a group read the same input.
            var grouped = module.Groups.Sum(static group => group.Members[0].Inputs - group.Members.Sum(static member => member.Inputs));
            var (outputs, inputs) = module is Linear linear ? (linear.Outputs, linear.Inputs) : (0, 0);
            var before = blocks.GetValueOrDefault(block);
            blocks[block] = (before.Kept + ((outputs + inputs + grouped) * bytes) + module.KeptBytes(bytes), before.Input > 0 ? before.Input : inputs * bytes);
        }

        return passing + (checkpointing && blocks.Count > 0
            ? blocks.Values.Sum(static block => block.Input) + (BlocksAtOnce * blocks.Values.Max(static block => block.Kept))
            : blocks.Values.Sum(static block => block.Kept));
    }

    /// <summary>The part of a path up to its first number, which names a block of a stack.</summary>
    private static string? BlockOf(string path)
    {
        var at = 0;
        foreach (var part in path.Split('.'))
        {
            at += part.Length + 1;
            if (part.Length > 0 && part.All(char.IsAsciiDigit))
            {
                return path[..(at - 1)];
            }
        }

        return null;
    }

    private static double ProductSeconds(PeftModel model, TrainingOptions options, long tokens) =>
        model.Base.Descendants().OfType<Linear>().Sum(static linear => (double)linear.Inputs * linear.Outputs) * OperationsOfProduct * ProductsOfFrozen * tokens
            / (Rate(model, options.BFloat16Products ? ScalarType.BFloat16 : model.DataType) * ShareOfRate);

    /// <summary>Seconds that a micro batch takes however few tokens it has.</summary>
    private static double CallSeconds(PeftModel model)
    {
        const int Calls = 100, Size = 8;
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        var (a, b) = (zeros([Size, Size], ScalarType.Float32, model.Device), zeros([Size, Size], ScalarType.Float32, model.Device));
        return model.Base.Descendants().OfType<Linear>().Count() * CallsOfLayer / (double)Calls * Fastest(() =>
        {
            for (var i = 0; i < Calls; i++)
            {
                a.mm(b).Dispose();
            }

            a.sum().item<float>();
        });
    }

    /// <summary>Operations a second of a product of matrices of a type.</summary>
    private static double Rate(PeftModel model, ScalarType type)
    {
        const int Size = 512;
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        var (a, b) = (zeros([Size, Size], type, model.Device), zeros([Size, Size], type, model.Device));
        return OperationsOfProduct * Math.Pow(Size, 3) / Fastest(() => a.mm(b).sum().to(ScalarType.Float32).item<float>());
    }

    /// <summary>Seconds of some work: the least of several rounds, for other work may come between; the first counts for nothing.</summary>
    private static double Fastest(Action work)
    {
        const int Rounds = 20;
        work();
        var fastest = double.PositiveInfinity;
        for (var i = 0; i < Rounds; i++)
        {
            var clock = System.Diagnostics.Stopwatch.StartNew();
            work();
            fastest = Math.Min(fastest, clock.Elapsed.TotalSeconds);
        }

        return fastest;
    }

    private static IEnumerable<Parameter> Owned(PeftModel model) => model.Base.NamedParameters().Select(static named => named.Parameter).Where(static parameter => parameter.IsOwner);
}
