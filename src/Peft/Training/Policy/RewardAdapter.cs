using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training.Policy;

/// <summary>
/// An adapter that was trained to score answers (a reward model), as a reward: on a model with a head for one score, or, without a second model in memory, on the same base as the
/// adapter that is trained, to which it brings its head along. Dispose it to take that head away again.
/// </summary>
public sealed class RewardAdapter : IReward, IDisposable
{
    private const int RowsAtOnce = 16;
    private const string HeadName = "score";

    private readonly PeftAdapter _adapter;
    private readonly Func<TrainingBatch, ForwardContext, Tensor> _score;
    private readonly LastTokenHead? _ownHead;

    /// <summary>Takes an adapter.</summary>
    /// <param name="adapter">The adapter, on a model that gives a row one score.</param>
    /// <param name="name">Its name in the log; null for the adapter's own.</param>
    /// <param name="weight">What its scores are multiplied by.</param>
    /// <exception cref="PeftException"><c>RewardModelUnfit</c>: its model scores nothing.</exception>
    public RewardAdapter(PeftAdapter adapter, string? name = null, double weight = 1)
    {
        ArgumentNullException.ThrowIfNull(adapter);
        _adapter = adapter;
        var network = adapter.Model.Base as SequenceClassificationModel is { LabelCount: 1 } found ? found : throw new PeftException(
            "RewardModelUnfit", $"The adapter '{adapter.Name}' is on a {adapter.Model.Base.ClassName}, which doesn't give a row one score.")
        {
            Target = adapter.Name,
            RecommendedAction = "Give an adapter that was trained with Invoke-PreferenceTraining -Objective reward, on a model imported with -TaskType SEQ_CLS and one label; or its folder.",
        };
        _score = (batch, pass) => network.Logits(network.Forward(batch.InputIds, pass), pass);
        Name = name ?? adapter.Name;
        Weight = weight;
    }

    private RewardAdapter(PeftAdapter adapter, LastTokenHead head, string name, double weight)
    {
        _adapter = adapter;
        _ownHead = head;
        _score = (batch, pass) => head.Scores(adapter.Model.Base.Forward(batch.InputIds, pass), pass);
        Name = name;
        Weight = weight;
    }

    /// <inheritdoc/>
    public string Name { get; }

    /// <inheritdoc/>
    public double Weight { get; }

    /// <summary>Loads a saved reward adapter onto a loaded base, whose hidden states it scores beside what the base itself does.</summary>
    /// <param name="model">A model that continues text: the base that the adapter was trained on, with another head.</param>
    /// <param name="folder">The adapter's folder.</param>
    /// <param name="name">Its name in the log; null for the folder's.</param>
    /// <param name="weight">What its scores are multiplied by.</param>
    /// <exception cref="PeftException"><c>RewardModelUnfit</c>: the folder holds no adapter that scores rows; or what loading it throws.</exception>
    public static RewardAdapter On(PeftModel model, string folder, string? name = null, double weight = 1)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(folder);
        name ??= Path.GetFileName(Path.TrimEndingDirectorySeparator(folder));
        if (AdapterConfig.FromFolder(folder).TaskType != "SEQ_CLS" || model.Base.Find(HeadName) is not null)
        {
            throw new PeftException("RewardModelUnfit", model.Base.Find(HeadName) is not null
                ? $"'{model.Name}' has a head '{HeadName}' of its own already."
                : $"'{folder}' holds an adapter that scores no rows: its task is not SEQ_CLS.")
            {
                Target = folder,
                RecommendedAction = "Give the folder of an adapter that was trained with Invoke-PreferenceTraining -Objective reward, on the same base as the one that is trained.",
            };
        }

        var head = model.Base.AddHead(HeadName, 1);
        try
        {
            var free = Enumerable.Range(1, int.MaxValue).Select(static number => FormattableString.Invariant($"reward-{number}")).First(one => model.Adapters.All(adapter => adapter.Name != one));
            return new RewardAdapter(model.LoadAdapter(folder, free), head, name, weight);
        }
        catch
        {
            model.Base.RemoveHead(head);
            throw;
        }
    }

    /// <summary>Scores prompts with their answers, in the tokens of the adapter's own model.</summary>
    /// <inheritdoc/>
    public IReadOnlyList<double?> Rate(IReadOnlyList<PolicyCompletion> completions, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(completions);
        var model = _adapter.Model;
        using var held = model.Acquire("rating answers");
        using var noGrad = no_grad();
        List<double?> scores = new(completions.Count);
        var tokenizer = model.RequiredTokenizer;
        foreach (var chunk in completions.Chunk(RowsAtOnce))
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            using var batch = Collator.Padded([.. chunk.Select(Row)], tokenizer.PadTokenId ?? 0, model.Device);
            var pass = model.NewPass(batch.In(new ForwardContext { Cancellation = cancellation }), AdapterSelection.Of(_adapter.Name));
            var given = _score(batch, pass).to(ScalarType.Float32).cpu().data<float>().ToArray();
            scores.AddRange(given.Select(static score => (double?)score));
        }

        return scores;

        // An answer that was ended was trained with the token that ends it.
        TokenRow Row(PolicyCompletion completion)
        {
            var end = completion.IsEnded ? tokenizer.EosToken : null;
            var ids = tokenizer.EncodeWhole(completion.Prompt.Text + completion.Text + end);
            return new TokenRow(ids, ids);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_ownHead is not null && !_adapter.Model.IsDisposed)
        {
            _adapter.Model.RemoveAdapter(_adapter.Name);
            _adapter.Model.Base.RemoveHead(_ownHead);
        }
    }
}
