using Peft.Generation;
using Peft.Models;
using Peft.Training.Data;
using Peft.Training.Objectives;
using Peft.Training.Reports;
using static TorchSharp.torch;

namespace Peft.Training.Policy;

/// <summary>
/// Training on the model's own answers: draws several to each prompt, has them rated, and makes those likelier that are better than the others. The options name the loss
/// (<c>grpo</c>, <c>rloo</c>) and hold what TRL's configuration of it holds; <see cref="TrainingOptions.BatchSize"/> counts answers, as there.
/// </summary>
public sealed class PolicyObjective : IObjective, IDisposable
{
    /// <summary>Rows that are drawn at once: what they remember of their tokens stands in memory.</summary>
    private const int RowsAtOnce = 64;

    private readonly IPolicyLoss _loss;
    private readonly IReadOnlyList<IReward> _rewards;
    private readonly TrainingOptions _options;
    private KeptBatches _kept = KeptBatches.None;
    private CompletionLog? _log;
    private bool _saidUnrated;
    private Action<string> _say = static _ => { };

    /// <summary>Makes the objective that options name.</summary>
    /// <param name="options">Objective, its options, batch size and seed.</param>
    /// <param name="rewards">What rates the answers.</param>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: the objective rates nothing, or an option doesn't fit.</exception>
    public PolicyObjective(TrainingOptions options, IReadOnlyList<IReward> rewards)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(rewards);
        _options = options;
        _rewards = [.. rewards];
        _loss = ObjectiveRegistry.Create(options) as IPolicyLoss ?? throw Invalid("objective", $"The objective '{options.Objective}' doesn't learn from answers that the model gives itself.", "Choose grpo or rloo.");
        if (_rewards.Count == 0 || (_loss.Settings.Weights is { } weights && weights.Count != _rewards.Count))
        {
            throw Invalid("reward_weights", $"There are {_rewards.Count} rewards and {_loss.Settings.Weights?.Count ?? 0} weights.", "Give at least one reward, and a weight for each or none.");
        }

        if (options.BatchSize * options.GradientAccumulation % _loss.Settings.GroupSize != 0)
        {
            throw Invalid(
                "num_generations",
                FormattableString.Invariant($"A step has {options.BatchSize * options.GradientAccumulation} answers (batch size x accumulation), which can't be shared by groups of {_loss.Settings.GroupSize}."),
                "Make the batch size, or with accumulation the answers of a step, a multiple of the group's size.");
        }
    }

    /// <summary>Sees the answers of each step, rated.</summary>
    public Action<IReadOnlyList<RatedCompletion>>? OnRated { get; init; }

    /// <inheritdoc/>
    public string Name => _loss.Name;

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Rated;

    /// <inheritdoc/>
    public bool NeedsReference => _loss.NeedsReference;

    /// <inheritdoc/>
    public double Temperature => _loss.Settings.Temperature;

    /// <inheritdoc/>
    public int StepsPerBatch => _loss.Settings.Iterations;

    /// <inheritdoc/>
    public TrainingOptions Plan(TrainingOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        return options with
        {
            BatchSize = options.BatchSize * options.GradientAccumulation / _loss.Settings.GroupSize,
            GradientAccumulation = 1,
            EvaluationBatchSize = Math.Max(1, options.EvaluationBatchSize / _loss.Settings.GroupSize),
        };
    }

    /// <inheritdoc/>
    public void Begin(string? folder, int steps, Action<string> say)
    {
        _say = say;
        _log = folder is null ? null : new CompletionLog(folder, steps, say);
    }

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, Tensor> State() => _kept.State();

    /// <inheritdoc/>
    public void LoadState(IReadOnlyDictionary<string, Tensor> state) => _kept = KeptBatches.Load(state);

    /// <summary>Gives up rewards that hold anything.</summary>
    public void Dispose()
    {
        foreach (var reward in _rewards.OfType<IDisposable>())
        {
            reward.Dispose();
        }
    }

    /// <inheritdoc/>
    public long Items(TrainingBatch batch) => _loss.Items(batch);

    /// <inheritdoc/>
    public IReadOnlyList<TrainingBatch> MakeBatches(IReadOnlyList<TrainingBatch> batches, BatchMaking making)
    {
        ArgumentNullException.ThrowIfNull(batches);
        ArgumentNullException.ThrowIfNull(making);
        PolicyPrompt[] prompts = [.. batches.OfType<PromptBatch>().SelectMany(static batch => batch.Prompts)];
        if (prompts.Length == 0)
        {
            return batches;
        }

        foreach (var batch in batches)
        {
            batch.Dispose();
        }

        var again = !making.IsEvaluation && making.Step % StepsPerBatch != 0 && _kept.Any;
        if (again)
        {
            return _kept.Copies();
        }

        var rated = Make(Draw(prompts, making), making);
        if (!making.IsEvaluation && StepsPerBatch > 1)
        {
            _kept.Dispose();
            _kept = KeptBatches.Of(rated);
        }

        return rated;
    }

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        ArgumentNullException.ThrowIfNull(pass);
        foreach (var (name, value) in pass.Rows<RatedBatch>().Figures)
        {
            using var figure = tensor((float)value, device: pass.Batch.InputIds.device);
            pass.Report(name, figure);
        }

        return _loss.Loss(pass);
    }

    private List<PolicyCompletion> Draw(PolicyPrompt[] prompts, BatchMaking making)
    {
        var (size, generator) = (_loss.Settings.GroupSize, new TextGenerator(making.Model));
        List<PolicyCompletion> drawn = new(prompts.Length * size);
        foreach (var (index, chunk) in prompts.Chunk(Math.Max(1, RowsAtOnce / size)).Index())
        {
            // Micro batches take the streams from 0 on, the whole step -1.
            var seed = DataOrder.SeedOf(_options.Seed, making.Step, -2 - index);
            var results = generator.Generate(
                [.. chunk.Select(static prompt => prompt.Ids)], _loss.Settings.Generation with { ReturnCount = size, Seed = (ulong)seed }, making.Context.Selection, null, making.Context.Cancellation);
            drawn.AddRange(results.Select((result, i) => new PolicyCompletion(chunk[i / size], result.Text, result.TokenIds, result.FinishReason == FinishReason.EndOfText)));
        }

        return drawn;
    }

    private RatedBatch[] Make(List<PolicyCompletion> drawn, BatchMaking making)
    {
        var given = Rate(drawn, making.Context.Cancellation);
        double[] rewards = [.. given.Select(Total)];
        List<(TrainingBatch Batch, Tensor? Sampled)> micro = [];
        var learnt = new List<double>(rewards.Length);
        foreach (var chunk in drawn.Chunk(_options.BatchSize))
        {
            var batch = Collator.Padded([.. chunk.Select(Row)], making.Model.RequiredTokenizer.PadTokenId ?? 0, making.Model.Device);
            var sampled = StepsPerBatch > 1 || _loss.RewardPenalty != 0 ? making.Losses(batch) : null;
            learnt.AddRange(_loss.RewardPenalty == 0 ? new double[chunk.Length] : Distances(batch, sampled!, making));
            micro.Add((batch, sampled));
        }

        var advantages = _loss.Advantages([.. rewards.Zip(learnt, (reward, distance) => reward - (_loss.RewardPenalty * distance))]);
        RatedCompletion[] rated = [.. drawn.Select((completion, i) => new RatedCompletion(making.Step + 1, completion, given[i], rewards[i], advantages[i]))];
        if (!making.IsEvaluation)
        {
            _log?.Write(rated, [.. _rewards.Select(static reward => reward.Name)]);
            OnRated?.Invoke(rated);
        }

        var figures = RewardStatistics.Figures(rated, [.. _rewards.Select(static reward => reward.Name)], _loss.Settings.GroupSize);
        if (_loss.RewardPenalty != 0)
        {
            figures["kl"] = learnt.Average();
        }

        return [.. micro.Select((made, i) => new RatedBatch(made.Batch.InputIds, made.Batch.Labels, Part(advantages, i, made.Batch))
        {
            AttentionMask = made.Batch.AttentionMask,
            TokenCount = made.Batch.TokenCount,
            TargetCount = made.Batch.TargetCount,
            SampledLosses = made.Sampled,
            Figures = figures,
        })];
    }

    private Tensor Part(double[] advantages, int index, TrainingBatch batch) =>
        tensor([.. advantages.Skip(index * _options.BatchSize).Take((int)batch.InputIds.size(0)).Select(static value => (float)value)], ScalarType.Float32, batch.InputIds.device);

    private TokenRow Row(PolicyCompletion completion)
    {
        var isLearnt = completion.IsEnded || !_loss.Settings.MasksTruncated;
        return new TokenRow(
            [.. completion.Prompt.Ids, .. completion.Ids],
            [.. completion.Prompt.Ids.Select(static _ => TrainingExample.Ignored), .. completion.Ids.Select(id => isLearnt ? id : TrainingExample.Ignored)]);
    }

    /// <summary>By how much the log-probability of each answer is above the reference's.</summary>
    private static IEnumerable<double> Distances(TrainingBatch batch, Tensor sampled, BatchMaking making) =>
        making.ReferenceLosses(batch).sub(sampled).sum(1).to(ScalarType.Float64).cpu().data<double>().ToArray();

    private List<double?[]> Rate(List<PolicyCompletion> drawn, CancellationToken cancellation)
    {
        List<double?[]> given = [.. drawn.Select(_ => new double?[_rewards.Count])];
        foreach (var (r, reward) in _rewards.Index())
        {
            var values = reward.Rate(drawn, cancellation);
            for (var i = 0; i < drawn.Count; i++)
            {
                var value = i < values.Count ? values[i] : double.NaN;
                given[i][r] = value is null || double.IsFinite(value.Value) ? value : throw InvalidReward(reward, drawn[i], value.Value);
            }
        }

        return given;
    }

    private double Total(double?[] given)
    {
        if (!_saidUnrated && Array.TrueForAll(given, static value => value is null))
        {
            _saidUnrated = true;
            _say("No reward had anything to say of some answers; they count 0.");
        }

        return given.Select((value, r) => (value ?? 0) * (_loss.Settings.Weights?[r] ?? _rewards[r].Weight)).Sum();
    }

    private static PeftException InvalidReward(IReward reward, PolicyCompletion completion, double value) => new("RewardInvalid", FormattableString.Invariant($"The reward '{reward.Name}' gave {value} to the answer {completion}."))
    {
        Target = completion,
        RecommendedAction = "Let the reward give a finite number, or $null where it has nothing to say.",
    };

    private static PeftException Invalid(string name, string message, string action) => new("TrainingOptionInvalid", message) { Target = name, RecommendedAction = action };
}
