using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training.Policy;

/// <summary>An adapter that was trained to score answers (a reward model), as a reward.</summary>
public sealed class RewardAdapter : IReward
{
    private const int RowsAtOnce = 16;

    private readonly PeftAdapter _adapter;
    private readonly SequenceClassificationModel _network;

    /// <summary>Takes an adapter.</summary>
    /// <param name="adapter">The adapter, on a model that gives a row one score.</param>
    /// <param name="name">Its name in the log; null for the adapter's own.</param>
    /// <param name="weight">What its scores are multiplied by.</param>
    /// <exception cref="PeftException"><c>RewardModelUnfit</c>: its model scores nothing.</exception>
    public RewardAdapter(PeftAdapter adapter, string? name = null, double weight = 1)
    {
        ArgumentNullException.ThrowIfNull(adapter);
        _adapter = adapter;
        _network = adapter.Model.Base as SequenceClassificationModel is { LabelCount: 1 } network ? network : throw new PeftException(
            "RewardModelUnfit", $"The adapter '{adapter.Name}' is on a {adapter.Model.Base.ClassName}, which doesn't give a row one score.")
        {
            Target = adapter.Name,
            RecommendedAction = "Give an adapter that was trained with Invoke-PreferenceTraining -Objective reward, on a model imported with -TaskType SEQ_CLS and one label.",
        };
        Name = name ?? adapter.Name;
        Weight = weight;
    }

    /// <inheritdoc/>
    public string Name { get; }

    /// <inheritdoc/>
    public double Weight { get; }

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
        foreach (var chunk in completions.Chunk(_network.Config.Integer("pad_token_id") is null ? 1 : RowsAtOnce))
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            using var batch = Collator.Padded([.. chunk.Select(Row)], tokenizer.PadTokenId ?? 0, model.Device);
            var pass = model.NewPass(batch.In(new ForwardContext { Cancellation = cancellation }), AdapterSelection.Of(_adapter.Name));
            var given = _network.Logits(_network.Forward(batch.InputIds, pass), pass).to(ScalarType.Float32).cpu().data<float>().ToArray();
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
}
