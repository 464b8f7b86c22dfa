using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tests.Golden;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>Forward and backward passes of whole models for tests, in the peer's shapes.</summary>
internal static class ModelRun
{
    /// <summary>Logits [rows, length, vocabulary] of a decoder, virtual tokens in front, zero where the mask is; [rows, labels] of a classifier.</summary>
    public static Tensor Logits(PeftModel model, IReadOnlyDictionary<string, Tensor> inputs, AdapterSelection? selection = null)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var context = model.NewPass(Context(inputs), selection);
        if (model.Base is PlainModel plain)
        {
            return plain.Forward(inputs["images"], inputs["tokens"], context).MoveToOuterDisposeScope();
        }

        var output = model.Base.Forward(Inputs(model, inputs), context);
        if (model.Base is SequenceClassificationModel classifier)
        {
            return classifier.Logits(output, context).MoveToOuterDisposeScope();
        }

        if (model.Base is SequenceToSequenceModel sequences)
        {
            return sequences.Logits(output, context).view(output.Rows, output.Length, -1).MoveToOuterDisposeScope();
        }

        var logits = Causal(model).Logits(output, context).view(output.Rows, output.Length, -1);
        return (inputs.TryGetValue("attention_mask", out var mask) ? logits.mul(InFront(mask, output.VirtualLength).unsqueeze(-1)) : logits.alias()).MoveToOuterDisposeScope();
    }

    private static Tensor InFront(Tensor mask, long count) => cat([ones([mask.size(0), count], mask.dtype), mask], 1);

    /// <summary>The loss with the active adapters, and the gradient of every trainable parameter by key.</summary>
    public static (double Loss, Dictionary<string, Tensor> Gradients) Backward(PeftModel model, PeftAdapter adapter, IReadOnlyDictionary<string, Tensor> inputs, bool isTraining = false)
    {
        using var noGradients = no_grad();
        var gradients = new Dictionary<string, Tensor>();
        foreach (var parameter in adapter.TrainableParameters)
        {
            parameter.Parameter.Data.requires_grad_(true);
            parameter.Parameter.Gradient = zeros_like(parameter.Parameter.Data).requires_grad_(false);
            gradients.Add(parameter.FullKey, parameter.Parameter.Gradient);
        }

        double value;
        using (NewDisposeScope())
        {
            using var tape = new Tape();
            var context = model.NewPass(Context(inputs) with { Tape = tape, IsTraining = isTraining });
            var loss = adapter.Adapter.Loss(Loss(model, inputs, context), context);
            value = loss.to(ScalarType.Float64).item<double>();
            tape.Backward(loss);
        }

        foreach (var parameter in adapter.TrainableParameters)
        {
            parameter.Parameter.Data.requires_grad_(false);
            parameter.Parameter.Gradient = null;
        }

        return (value, gradients);
    }

    private static Tensor Loss(PeftModel model, IReadOnlyDictionary<string, Tensor> inputs, ForwardContext context)
    {
        if (model.Base is PlainModel plain)
        {
            return plain.Loss(inputs["images"], inputs["tokens"], context);
        }

        var output = model.Base.Forward(Inputs(model, inputs), context);
        var labels = inputs["labels"];
        return model.Base switch
        {
            SequenceClassificationModel classifier => classifier.Loss(classifier.Logits(output, context), labels, context),
            SequenceToSequenceModel sequences => sequences.Loss(output, labels, null, context),
            _ => Causal(model).Loss(output, labels, null, context),
        };
    }

    private static ModelInputs Inputs(PeftModel model, IReadOnlyDictionary<string, Tensor> inputs)
    {
        var given = new ModelInputs { Ids = inputs["input_ids"], TokenTypes = inputs.GetValueOrDefault("token_type_ids") ?? inputs.GetValueOrDefault("input_type_mask") };
        return model.Base is SequenceToSequenceModel sequences ? sequences.WithDecoderIds(given, inputs["labels"]) : given;
    }

    private static ForwardContext Context(IReadOnlyDictionary<string, Tensor> inputs) => new()
    {
        Rows = Ids(inputs).shape[0],
        Length = Ids(inputs).shape[1],
        AttentionMask = inputs.GetValueOrDefault("attention_mask"),
        TaskIds = inputs.GetValueOrDefault("task_ids"),
    };

    private static Tensor Ids(IReadOnlyDictionary<string, Tensor> inputs) => inputs.TryGetValue("input_ids", out var ids) ? ids : inputs["tokens"];

    private static CausalModel Causal(PeftModel model) => model.Base as CausalModel
        ?? throw new NotSupportedByPeftException("ArchitectureNotSupported", $"'{model.Config.ModelType}' can't be run by this test yet.");
}
