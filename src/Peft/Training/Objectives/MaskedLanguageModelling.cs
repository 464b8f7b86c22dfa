using Peft.Models;
using Peft.Models.Heads;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training.Objectives;

/// <summary>
/// Tokens to fill in (Devlin et al. 2019): of a share of the tokens (<c>mlm_probability</c>, 0.15) most become the mask token, a tenth another token, and a tenth stay.
/// The draw is another in each step, and always the same in an evaluation.
/// </summary>
public sealed class MaskedLanguageModelling : IObjective
{
    private const double MaskedShare = 0.8;
    private const double ReplacedShareOfRest = 0.5;
    private const ulong EvaluationSeed = 42;

    private readonly double _share;

    /// <summary>Reads the option <c>mlm_probability</c>.</summary>
    internal MaskedLanguageModelling(NamedOptions options)
    {
        _share = options.Number("mlm_probability") ?? 0.15;
        options.Require(_share is > 0 and < 1, "mlm_probability", "between 0 and 1");
    }

    /// <inheritdoc/>
    public string Name => "masked_language_modelling";

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Text;

    /// <summary>How many tokens are masked is drawn later: micro batches count alike.</summary>
    /// <inheritdoc/>
    public long Items(TrainingBatch batch) => 1;

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        ArgumentNullException.ThrowIfNull(pass);
        var model = pass.Head<MaskedModel>("a model that fills in tokens", "a head for masked tokens, such as BertForMaskedLM");
        var (context, batch) = (pass.Context, pass.Batch);
        var (ids, labels) = Mask(pass, model);
        var loss = model.Loss(model.Forward(batch.Inputs with { Ids = ids }, context), labels, null, context);
        return pass.Divisor is { } divisor ? pass.Formula(inputs => inputs[0].div(divisor), loss) : loss;
    }

    private (Tensor Ids, Tensor Labels) Mask(ObjectivePass pass, MaskedModel model)
    {
        using var noGrad = no_grad();
        var (ids, mask) = (pass.Batch.InputIds, pass.MaskToken);
        using var own = pass.Context.IsTraining ? null : new Generator(EvaluationSeed, ids.device);
        var generator = own ?? pass.Context.Generator;
        var maskable = pass.SpecialTokens.Aggregate(pass.Batch.Labels.ne(TrainingExample.Ignored), (kept, special) => kept.logical_and_(ids.ne(special)));
        var chosen = Draw(_share).logical_and(maskable);
        var masked = chosen.logical_and(Draw(MaskedShare));
        var replaced = chosen.logical_and(masked.logical_not()).logical_and(Draw(ReplacedShareOfRest));
        var others = randint(0, model.Backbone.TokenEmbeddings!.Count, ids.shape, ScalarType.Int64, ids.device, generator: generator);
        return (where(replaced, others, ids.masked_fill(masked, mask)), ids.masked_fill(chosen.logical_not(), TrainingExample.Ignored));

        Tensor Draw(double share) => rand(ids.shape, ScalarType.Float32, ids.device, generator: generator).lt(share);
    }
}
