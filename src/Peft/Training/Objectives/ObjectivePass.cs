using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Training.Objectives;

/// <summary>One micro batch on its way through an objective.</summary>
public sealed class ObjectivePass
{
    private readonly ReferenceModel? _reference;
    private readonly MetricSums _metrics;
    private readonly string _objective;
    private readonly double _temperature;
    private readonly PeftModel _model;

    internal ObjectivePass(IObjective objective, PeftModel model, TrainingBatch batch, double? divisor, ForwardContext context, ReferenceModel? reference, MetricSums metrics)
    {
        (_objective, _temperature) = (objective.Name, objective.Temperature);
        _reference = reference;
        _metrics = metrics;
        _model = model;
        Batch = batch;
        Divisor = divisor;
        Context = PassOver(batch, context);
    }

    /// <summary>The model; who acts on it is said by <see cref="Context"/>.</summary>
    public PretrainedModel Model => _model.Base;

    /// <summary>The model with its adapters.</summary>
    internal PeftModel Owner => _model;

    /// <summary>The rows.</summary>
    public TrainingBatch Batch { get; }

    /// <summary>What sums over items are divided by: the items of the whole optimiser step, so that its micro losses add up; null in an evaluation, for the batch's own.</summary>
    public double? Divisor { get; }

    /// <summary>The forward pass, with the batch's masks and positions, and with a tape in training.</summary>
    public ForwardContext Context { get; }

    /// <summary>The model as one that continues text.</summary>
    /// <exception cref="NotSupportedByPeftException"><c>ObjectiveNotSupported</c>.</exception>
    public CausalModel Causal => Head<CausalModel>("a model that continues text", "a language modelling head, such as LlamaForCausalLM");

    /// <summary>The model with the head that the objective needs.</summary>
    /// <typeparam name="T">The kind of model.</typeparam>
    /// <param name="what">What is needed, for the message.</param>
    /// <param name="head">What to import, for the advice.</param>
    /// <exception cref="NotSupportedByPeftException"><c>ObjectiveNotSupported</c>.</exception>
    public T Head<T>(string what, string head)
        where T : PretrainedModel => Model as T ?? throw new NotSupportedByPeftException("ObjectiveNotSupported", $"The objective '{_objective}' needs {what}; {Model.ClassName} is none.")
        {
            Target = Model.ClassName,
            RecommendedAction = $"Import a model with {head}.",
        };

    /// <summary>Id of the token that stands for one to fill in.</summary>
    /// <exception cref="PeftException"><c>MaskTokenMissing</c>.</exception>
    public int MaskToken => _model.RequiredTokenizer.MaskTokenId ?? throw new PeftException("MaskTokenMissing", $"The tokenizer of '{_model.Name}' has no token that stands for one to fill in.")
    {
        Target = _model.Name,
        RecommendedAction = "Use the tokenizer of a model that was trained to fill in tokens (mask_token in tokenizer_config.json).",
    };

    /// <summary>Ids of the tokens that stand for no text.</summary>
    public IReadOnlyList<int> SpecialTokens => _model.RequiredTokenizer.SpecialIds;

    /// <summary>The batch as the kind that the objective needs.</summary>
    /// <typeparam name="T">The kind of batch.</typeparam>
    /// <exception cref="PeftException"><c>ObjectiveDataMismatch</c>.</exception>
    public T Rows<T>()
        where T : TrainingBatch => Batch as T ?? throw new PeftException("ObjectiveDataMismatch", $"The objective '{_objective}' learns from a {typeof(T).Name}, but the data gives a {Batch.GetType().Name}.")
        {
            RecommendedAction = "Choose the objective that belongs to the data, or data that belongs to the objective.",
        };

    /// <summary>Negative log-likelihood of every labelled token under the model that is trained.</summary>
    /// <param name="statistics">What else is wanted of the logits there.</param>
    /// <returns>float32 [rows, positions - 1], known to the tape; 0 where nothing is labelled.</returns>
    public Tensor Losses(params TokenStatistic[] statistics) => Losses(Batch, Context, statistics);

    /// <summary>As <see cref="Losses(TokenStatistic[])"/>, of other rows or labels.</summary>
    /// <param name="batch">The rows.</param>
    public Tensor LossesOf(TrainingBatch batch) => Losses(batch, Context);

    /// <summary>Negative log-likelihood of every labelled token under the reference, which never learns.</summary>
    /// <param name="batch">The rows; null for the pass's own.</param>
    /// <returns>As <see cref="Losses(TokenStatistic[])"/>, known to the tape as a constant.</returns>
    public Tensor ReferenceLosses(TrainingBatch? batch = null)
    {
        var losses = _reference!.Run(Context, context => Losses(batch ?? Batch, context));
        Context.Tape?.AddRoot(losses);
        return losses;
    }

    /// <summary>Negative log-likelihood of every labelled token now, as a constant: without a tape or dropout.</summary>
    /// <param name="batch">The rows.</param>
    public Tensor ConstantLosses(TrainingBatch batch)
    {
        var losses = Losses(batch, Context with { Tape = null, IsTraining = false });
        Context.Tape?.AddRoot(losses);
        return losses;
    }

    /// <summary>A plain formula over tensors that are known to the tape; autograd runs over it alone.</summary>
    /// <param name="formula">Maps the inputs to the loss.</param>
    /// <param name="inputs">The inputs.</param>
    public Tensor Formula(Func<IReadOnlyList<Tensor>, Tensor> formula, params Tensor[] inputs) =>
        Context.Tape is { } tape ? tape.Autograd(formula, inputs, []) : formula(inputs);

    /// <summary>States a figure beside the loss, which the log and the training record show as a mean over the step.</summary>
    /// <param name="metric">Its name, such as <c>rewards/margins</c>.</param>
    /// <param name="sum">A scalar: the sum over <paramref name="count"/> values.</param>
    /// <param name="count">How many values; 0 leaves it out.</param>
    public void Report(string metric, Tensor sum, double count = 1) => _metrics.Add(metric, sum, count);

    private ForwardContext PassOver(TrainingBatch batch, ForwardContext context) => _model.NewPass(batch.In(context), context.Selection);

    private Tensor Losses(TrainingBatch batch, ForwardContext context, params TokenStatistic[] statistics)
    {
        context = batch == Batch && context == Context ? context : PassOver(batch, context);
        return Causal.TokenLosses(Tempered(Causal.Forward(batch.InputIds, context), context.Tape), batch.Labels, context, statistics);
    }

    /// <summary>Hidden states whose scores are divided by the temperature.</summary>
    private BackboneOutput Tempered(BackboneOutput output, Tape? tape)
    {
        if (_temperature == 1)
        {
            return output;
        }

        if (!Causal.IsLinear)
        {
            throw new NotSupportedByPeftException("TemperatureNotSupported", $"The scores of a {Model.ClassName} are bounded or have a bias, and can't be divided by a temperature in the loss.")
            {
                Target = Model.ClassName,
                RecommendedAction = "Leave the temperature at 1.",
            };
        }

        return output with
        {
            Hidden = tape is null ? output.Hidden.div(_temperature) : tape.Autograd(inputs => inputs[0].div(_temperature), [output.Hidden], []),
        };
    }
}
