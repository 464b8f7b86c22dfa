using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Layers;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training.Objectives;

/// <summary>
/// Distillation (Hinton et al. 2015): at each labelled position the model learns what a teacher predicts there, its <c>top_k</c> (64) likeliest tokens at a <c>temperature</c> (2), counting
/// <c>alpha</c> (1) beside the label itself. The teacher is another adapter of the same model, by its name (<c>teacher</c>), the base without any (<c>base</c>), or another model with the same tokens; its scores are
/// formed a piece at a time and never kept.
/// </summary>
public sealed class Distillation : IObjective
{
    private readonly PeftModel? _model;
    private readonly string _teacher;
    private readonly int _count;
    private readonly double _temperature;
    private readonly double _share;

    internal Distillation(NamedOptions options, PeftModel? teacher = null)
    {
        _model = teacher;
        _teacher = options.Words("teacher") is [var name] ? name : "";
        _count = options.Integer("top_k") ?? 64;
        _temperature = options.Number("temperature") ?? 2;
        _share = options.Number("alpha") ?? 1;
        options.Require(_count > 0, "top_k", "1 or more");
        options.Require(_temperature > 0, "temperature", "above 0");
        options.Require(_share is > 0 and <= 1, "alpha", "above 0 and at most 1");
    }

    /// <summary>Makes the objective with a teacher that is another model.</summary>
    /// <param name="options">The training's options, with this objective's own.</param>
    /// <param name="teacher">The model; the adapter that <c>teacher</c> names acts on it, or without a name those that are active. It is used while the training holds its own.</param>
    public static Distillation From(TrainingOptions options, PeftModel teacher)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(teacher);
        return new Distillation(new NamedOptions($"objective '{options.Objective}'", options.ObjectiveOptions), teacher);
    }

    /// <inheritdoc/>
    public string Name => "distillation";

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        ArgumentNullException.ThrowIfNull(pass);
        using var scope = NewDisposeScope();
        var causal = pass.Causal;
        var output = causal.Forward(pass.Batch.Inputs, pass.Context);
        var (network, taught, context) = Teach(pass);
        var soft = new SoftTargets(
            positions =>
            {
                // Virtual tokens in front are each one's own.
                var row = positions.div(output.Length, RoundingMode.floor);
                var token = positions.sub(row.mul(output.Length)).sub(output.VirtualLength);
                var hidden = taught.Hidden.index_select(0, row.mul(taught.Length).add_(token).add_(taught.VirtualLength));
                var (values, ids) = network.Logits(hidden, context).to(ScalarType.Float32).topk((int)Math.Min(_count, network.VocabularySize), 1);
                return (ids, values.div_(_temperature).softmax(1));
            },
            _temperature,
            _share);
        return causal.SoftLoss(output, pass.Batch.Labels, pass.Divisor, soft, pass.Context).MoveToOuterDisposeScope();
    }

    /// <summary>The teacher's hidden states, without a tape or dropout.</summary>
    private (CausalModel Network, BackboneOutput Output, ForwardContext Context) Teach(ObjectivePass pass)
    {
        var model = _model ?? pass.Owner;
        var network = model.Base as CausalModel;
        if (network is null || network.VocabularySize != pass.Causal.VocabularySize)
        {
            throw new PeftException("TeacherUnfit", $"'{model.Name}' can't teach '{pass.Owner.Name}': {(network is null ? "it doesn't continue text" : $"it knows {network.VocabularySize} tokens, and the model {pass.Causal.VocabularySize}")}.")
            {
                Target = model.Name,
                RecommendedAction = "Give a teacher with the same tokenizer.",
            };
        }

        if (_model is null && _teacher.Length == 0)
        {
            throw new PeftException("TrainingOptionInvalid", "The objective 'distillation' needs to know who teaches.")
            {
                Target = "teacher",
                RecommendedAction = "Give -Teacher: a model, an adapter, or the name of an adapter of this model.",
            };
        }

        using var held = model.Acquire("teaching");
        var selection = _teacher.Length == 0 ? model.CurrentSelection : _teacher == "base" ? AdapterSelection.Base : AdapterSelection.Of(model[_teacher].Name);
        var own = new ForwardContext { Cancellation = pass.Context.Cancellation, ProductType = pass.Context.ProductType };
        var context = model.NewPass(pass.Batch.In(own), selection);
        return (network, network.Forward(pass.Batch.Inputs, context), context);
    }
}
