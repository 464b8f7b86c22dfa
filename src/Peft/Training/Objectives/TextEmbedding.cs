using Peft.Models;
using Peft.Training.Data;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

namespace Peft.Training.Objectives;

/// <summary>
/// What the objectives of text embeddings share: two texts a row, each as one vector. <c>pooling</c> says how hidden states become it: their <c>mean</c> over the text's tokens (default, as
/// Sentence-BERT's; Reimers and Gurevych 2019), the first token's (<c>cls</c>) or the last one's (<c>last</c>). A batch's mean is the item that a step averages over.
/// </summary>
public abstract class TextEmbedding : IObjective
{
    private readonly string _pooling;

    private protected TextEmbedding(NamedOptions options) => _pooling = options.Choice("pooling", "mean", "cls", "last");

    /// <inheritdoc/>
    public abstract string Name { get; }

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Similar;

    /// <inheritdoc/>
    public long Items(TrainingBatch batch) => 1;

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        ArgumentNullException.ThrowIfNull(pass);
        var batch = pass.Rows<PairBatch>();
        var output = pass.Model.Forward(batch.Inputs, pass.Context);
        return pass.Formula(
            inputs =>
            {
                var vectors = normalize(Pool(inputs[0].to(ScalarType.Float32), output, batch.AttentionMask), dim: 1);
                return Loss(pass, vectors.narrow(0, 0, batch.Pairs), vectors.narrow(0, batch.Pairs, batch.Pairs + batch.Negatives), batch.Margins).div(pass.Divisor ?? 1);
            },
            output.Hidden);
    }

    /// <summary>The mean loss of a batch.</summary>
    /// <param name="pass">The pass.</param>
    /// <param name="first">The first texts' vectors, of length 1, [pairs, width].</param>
    /// <param name="second">The second texts' vectors, and behind them those of texts that are like none, [pairs + negatives, width].</param>
    /// <param name="similarities">How alike the texts of each pair are, [pairs]; null where nobody said.</param>
    private protected abstract Tensor Loss(ObjectivePass pass, Tensor first, Tensor second, Tensor? similarities);

    /// <summary>One vector for each row of hidden states; virtual tokens in front and padding count nowhere.</summary>
    private Tensor Pool(Tensor hidden, BackboneOutput output, Tensor? mask)
    {
        var states = hidden.view(output.Rows, output.Length, -1).narrow(1, output.VirtualLength, output.Length - output.VirtualLength);
        var tokens = (mask ?? ones(states.size(0), states.size(1), ScalarType.Int64, states.device)).to(states.dtype);
        if (_pooling == "mean")
        {
            return states.mul(tokens.unsqueeze(2)).sum(1).div(tokens.sum(1, keepdim: true).clamp_min(1));
        }

        // Padding may stand in front or behind.
        var places = arange(1, tokens.size(1) + 1, states.dtype, states.device).mul(tokens);
        var place = _pooling == "cls" ? tokens.argmax(1) : places.argmax(1);
        return states.gather(1, place.view(-1, 1, 1).expand(-1, 1, states.size(2))).squeeze(1);
    }
}

/// <summary>
/// Multiple negatives ranking (Henderson et al. 2017; van den Oord et al. 2018): of all second texts of a batch each first one is to be nearest to its own, by the cross-entropy of
/// cosines times <c>scale</c> (20); texts that rows give as negatives stand among the second ones and are nobody's own. With <c>symmetric</c> the other way round as well (from second texts to first ones), each way by half. Larger batches hold more negatives: micro batches don't see each other's.
/// </summary>
public sealed class MultipleNegativesRanking : TextEmbedding
{
    private readonly double _scale;
    private readonly bool _isSymmetric;

    internal MultipleNegativesRanking(NamedOptions options)
        : base(options)
    {
        _scale = options.Number("scale") ?? 20;
        _isSymmetric = options.Flag("symmetric") ?? false;
        options.Require(_scale > 0, "scale", "above 0");
    }

    /// <inheritdoc/>
    public override string Name => "multiple_negatives_ranking";

    private protected override Tensor Loss(ObjectivePass pass, Tensor first, Tensor second, Tensor? similarities)
    {
        var scores = first.mm(second.t()).mul(_scale);
        var own = arange(scores.size(0), ScalarType.Int64, scores.device);
        using (no_grad())
        {
            pass.Report("accuracy", scores.argmax(1).eq(own).to(ScalarType.Float32).sum(), scores.size(0));
        }

        var loss = cross_entropy(scores, own);
        return _isSymmetric ? loss.add(cross_entropy(scores.narrow(1, 0, own.size(0)).t(), own)).mul(0.5) : loss;
    }
}

/// <summary>The squared difference between two texts' cosine and how alike they are (Reimers and Gurevych 2019); alike where the data doesn't say.</summary>
public sealed class CosineSimilarity : TextEmbedding
{
    internal CosineSimilarity(NamedOptions options)
        : base(options)
    {
    }

    /// <inheritdoc/>
    public override string Name => "cosine_similarity";

    private protected override Tensor Loss(ObjectivePass pass, Tensor first, Tensor second, Tensor? similarities)
    {
        if (second.size(0) != first.size(0))
        {
            throw new PeftException("ObjectiveDataMismatch", "The data has texts to tell others from (a column 'negative'), which this objective doesn't compare.")
            {
                RecommendedAction = "Learn with -Objective multiple_negatives_ranking, or leave the column out.",
            };
        }

        var difference = first.mul(second).sum(1).sub(similarities ?? ones(first.size(0), first.dtype, first.device));
        using (no_grad())
        {
            pass.Report("mean_absolute_error", difference.abs().sum(), difference.size(0));
        }

        return difference.square().mean();
    }
}
