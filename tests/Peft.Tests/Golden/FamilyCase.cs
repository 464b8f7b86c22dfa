using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tensors;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>What a case records of a model, whatever its head: outputs, losses, gradients of batches, and greedy generation.</summary>
internal static class FamilyCase
{
    public static void Run(PretrainedModel model, TensorStore recorded, JsonElement expected)
    {
        foreach (var batch in new[] { "plain", "padded", "long" }.Where(batch => recorded.Contains($"{batch}.input_ids")))
        {
            Outputs(new FamilyBatch(model, recorded, batch), expected.GetProperty("tolerance"));
        }

        FamilyGradients.Check(model, recorded, expected, expected.GetProperty("gradient_norms"), new FamilyBatch(model, recorded, "padded"));
        if (recorded.Contains("packed.input_ids"))
        {
            var packing = expected.GetProperty("packing");
            var packed = new FamilyBatch(model, recorded, "packed")
            {
                Packing = [[.. packing.GetProperty("documents").EnumerateArray().Select(static length => length.GetInt32())]],
            };
            Outputs(packed, expected.GetProperty("tolerance"));
            FamilyGradients.Check(model, recorded, expected, packing.GetProperty("gradient_norms"), packed);
        }

        if (expected.TryGetProperty("generation", out var generation))
        {
            FamilyGeneration.Run(model, recorded, generation);
        }
    }

    private static void Outputs(FamilyBatch batch, JsonElement tolerance)
    {
        using var scope = NewDisposeScope();
        var context = batch.Context() with { KeepsHiddenStates = true };
        var output = batch.Model.Forward(batch.Inputs(), context);
        Positions("hidden", output.Hidden, output.Length);

        // What the first of several layers gave; a single one's is the last.
        Positions("hidden_1", output.HiddenStates is { Count: 1 } ? output.Hidden : output.HiddenStates?[1], output.Length);
        Positions("encoder_hidden", output.Encoded?.Hidden, output.Encoded?.Length ?? 0);
        for (var layer = 0; layer < output.RouterLogits.Count; layer++)
        {
            batch.CompareRouter(layer, output.RouterLogits[layer], tolerance);
        }

        batch.CompareBalance(context, tolerance);
        var (logits, loss) = batch.LogitsAndLoss(output, context);
        foreach (var (name, actual) in logits)
        {
            if (actual.dim() == 2 && actual.size(0) == output.Rows * output.Length && output.Length > 1)
            {
                Positions(name, actual, output.Length);
            }
            else
            {
                TensorAssert.Close(batch.Read(name), actual, tolerance, $"{batch.Name}.{name}");
            }
        }

        TensorAssert.Close(batch.Read("loss"), loss, tolerance, $"{batch.Name}.loss");

        void Positions(string name, Tensor? actual, long length)
        {
            if (actual is not null && batch.Contains(name))
            {
                batch.Compare(name, actual, length, tolerance);
            }
        }
    }
}

/// <summary>A recorded batch of a model.</summary>
internal sealed record FamilyBatch(PretrainedModel Model, TensorStore Recorded, string Name)
{
    public IReadOnlyList<IReadOnlyList<int>>? Packing { get; init; }

    // Where no labels were recorded, every token is one.
    public Tensor Read(string name) => Recorded.Read($"{Name}.{(name == "labels" && !Contains(name) ? "input_ids" : name)}");

    public bool Contains(string name) => Recorded.Contains($"{Name}.{name}");

    public ForwardContext Context() => new() { AttentionMask = Optional("attention_mask"), Packing = Packing, Positions = Optional("position_ids") };

    public ModelInputs Inputs()
    {
        var inputs = new ModelInputs { Ids = Read("input_ids"), TokenTypes = Optional("token_type_ids") };
        return Model is SequenceToSequenceModel sequences ? sequences.WithDecoderIds(inputs, Read("labels")) : inputs;
    }

    /// <summary>What the head gives by recorded name, and its loss.</summary>
    public (IReadOnlyList<(string Name, Tensor Value)> Logits, Tensor Loss) LogitsAndLoss(BackboneOutput output, ForwardContext context)
    {
        switch (Model)
        {
            case CausalModel causal:
                return ([("logits", causal.Logits(output, context))], causal.Loss(output, Read("labels"), null, context));
            case SequenceToSequenceModel sequences:
                return ([("logits", sequences.Logits(output, context))], sequences.Loss(output, Read("labels"), null, context));
            case MaskedModel masked:
                return ([("logits", masked.Logits(output, context))], masked.Loss(output, Read("labels"), null, context));
            case SequenceClassificationModel classifier:
                var scores = classifier.Logits(output, context);
                return ([("logits", scores)], classifier.Loss(scores, Read("labels"), context));
            case TokenClassificationModel tokens:
                var labels = tokens.Logits(output, context);
                return ([("logits", labels)], tokens.Loss(output, labels, Read("labels"), context));
            case QuestionAnsweringModel question:
                var ends = question.Logits(output, context);
                return (
                    [("start_logits", ends.narrow(1, 0, 1)), ("end_logits", ends.narrow(1, 1, 1))],
                    question.Loss(output, ends, Read("start_positions"), Read("end_positions"), context));
            default:
                throw new Xunit.Sdk.XunitException($"no runner for {Model.GetType().Name}");
        }
    }

    /// <summary>Compares positions that are no padding; what was recorded of the last positions alone is compared there.</summary>
    public void Compare(string name, Tensor actual, long length, JsonElement tolerance)
    {
        var wanted = Read(name);
        var all = actual.view(wanted.size(0), length, -1);
        if (wanted.dim() == 2)
        {
            wanted = wanted.unsqueeze(-1);
        }

        all = all.narrow(1, length - wanted.size(1), wanted.size(1)).reshape(-1, all.size(2));
        wanted = wanted.flatten(0, 1);
        if (Optional("attention_mask") is { } mask && mask.size(1) == length)
        {
            var visible = mask.reshape(-1).eq(1).nonzero().squeeze(1);
            (wanted, all) = (wanted.index_select(0, visible), all.index_select(0, visible));
        }

        TensorAssert.Close(wanted, all, tolerance, $"{Name}.{name}");
    }

    /// <summary>Compares a layer's router with what was recorded, where it was.</summary>
    public void CompareRouter(int layer, Tensor actual, JsonElement tolerance)
    {
        if (Contains("router_logits"))
        {
            TensorAssert.Close(Read("router_logits").narrow(0, layer * actual.size(0), actual.size(0)), actual, tolerance, $"{Name}.router_logits of layer {layer.ToString(CultureInfo.InvariantCulture)}");
        }
    }

    /// <summary>Compares the loss of uneven experts, where it was recorded, which a configuration asks for.</summary>
    public void CompareBalance(ForwardContext context, JsonElement tolerance)
    {
        if (!Contains("aux_loss"))
        {
            return;
        }

        var settings = Model.Config.Document["text_config"] as JsonObject ?? Model.Config.Document;
        var was = settings["output_router_logits"]?.DeepClone();
        settings["output_router_logits"] = true;
        var output = Model.Forward(Inputs(), context);
        settings["output_router_logits"] = was;
        var factor = settings["router_aux_loss_coef"]?.GetValue<double>() ?? 0.001;
        TensorAssert.Close(Read("aux_loss"), output.AuxiliaryLoss!.div(factor), tolerance, $"{Name}.aux_loss");
        TensorAssert.Close(Read("router_loss"), LogitsAndLoss(output, context).Loss, tolerance, $"{Name}.router_loss");
    }

    private Tensor? Optional(string name) => Contains(name) ? Read(name) : null;
}

/// <summary>Greedy generation step by step, with the cache and without.</summary>
internal static class FamilyGeneration
{
    public static void Run(PretrainedModel model, TensorStore recorded, JsonElement generation)
    {
        var tolerance = generation.GetProperty("tolerance");
        if (model is SequenceToSequenceModel sequences)
        {
            Sequences(sequences, recorded, tolerance, useCache: true);
            Sequences(sequences, recorded, tolerance, useCache: false);
            return;
        }

        var causal = Assert.IsType<CausalModel>(model);
        Generation(causal, recorded, tolerance, "generate", useCache: true);

        // Logits without a cache are recorded where the tokens differ; where only the tokens are the same (positions that depend on the length), they alone are held.
        var without = recorded.Contains("generate_without_cache.sequences") ? "generate_without_cache" : "generate";
        Generation(causal, recorded, without == "generate" ? null : tolerance, without, useCache: false);
    }

    private static void Sequences(SequenceToSequenceModel model, TensorStore recorded, JsonElement tolerance, bool useCache)
    {
        using var scope = NewDisposeScope();
        var inputs = new ModelInputs { Ids = recorded.Read("generate.input_ids") };
        var wanted = recorded.Read("generate.step_logits");
        using var cache = new ModelCache();
        var all = full([wanted.size(1), 1], model.Config.RequiredInteger("decoder_start_token_id"), ScalarType.Int64);
        for (var step = 0; step < wanted.size(0); step++)
        {
            var context = new ForwardContext { AttentionMask = recorded.Read("generate.attention_mask"), Cache = useCache ? cache : null };
            var output = model.Forward(inputs with { DecoderIds = useCache ? all.narrow(1, step, 1) : all }, context);
            inputs = useCache ? inputs with { Encoded = output.Encoded } : inputs;
            var logits = model.Logits(output.LastPosition(), context);
            TensorAssert.Close(wanted[step], logits, tolerance, $"generate step {step.ToString(CultureInfo.InvariantCulture)}, cache {useCache}");
            all = cat([all, logits.argmax(1, keepdim: true)], 1);
        }

        TensorAssert.Close(recorded.Read("generate.sequences"), all, 0, 0, "generate.sequences");
    }

    private static void Generation(CausalModel model, TensorStore recorded, JsonElement? tolerance, string name, bool useCache)
    {
        var ids = recorded.Read("generate.input_ids");
        var mask = recorded.Read("generate.attention_mask");
        var wanted = recorded.Read($"{name}.step_logits");
        using var cache = new ModelCache();
        var all = ids;
        var next = ids;
        for (var step = 0; step < wanted.size(0); step++)
        {
            var positions = mask.cumsum(1).sub(1).clamp_min(0);
            if (useCache && !model.Backbone.CanContinue(cache.Length, all.size(1)))
            {
                cache.Clear();
                next = all;
            }

            var input = useCache ? next : all;
            var context = new ForwardContext
            {
                AttentionMask = mask,
                Cache = useCache ? cache : null,
                Positions = positions.narrow(1, positions.size(1) - input.size(1), input.size(1)),
            };
            var logits = model.Logits(model.Forward(input, context).LastPosition(), context);
            if (tolerance is { } allowed)
            {
                TensorAssert.Close(wanted[step], logits, allowed, $"{name} step {step.ToString(CultureInfo.InvariantCulture)}");
            }

            next = logits.argmax(1, keepdim: true);
            all = cat([all, next], 1);
            mask = cat([mask, ones_like(next)], 1);
        }

        TensorAssert.Close(recorded.Read($"{name}.sequences"), all, 0, 0, $"{name}.sequences");
    }
}

/// <summary>Gradients of all weights: those recorded in full, and the norm of every one, with and without recomputed blocks.</summary>
internal static class FamilyGradients
{
    public static void Check(PretrainedModel model, TensorStore recorded, JsonElement expected, JsonElement norms, FamilyBatch batch)
    {
        foreach (var checkpointing in new[] { false, true })
        {
            using var scope = NewDisposeScope();
            var parameters = model.NamedParameters().Where(static named => named.Parameter.IsOwner).ToArray();
            foreach (var (_, parameter, _) in parameters)
            {
                parameter.Gradient = zeros([.. parameter.Shape]);
            }

            using var tape = new Tape();
            var context = batch.Context() with { Tape = tape, Checkpointing = checkpointing };
            var (_, loss) = batch.LogitsAndLoss(model.Forward(batch.Inputs(), context), context);
            tape.Backward(loss);
            var tolerance = expected.GetProperty("gradient_tolerance");
            var recordedPrefix = batch.Name == "padded" ? "gradient" : $"{batch.Name}.gradient";
            foreach (var (path, parameter, _) in parameters)
            {
                if (recorded.Contains($"{recordedPrefix}.{path}"))
                {
                    TensorAssert.Close(recorded.Read($"{recordedPrefix}.{path}"), parameter.Gradient!, tolerance, $"gradient of {path}");
                }

                var wanted = norms.TryGetProperty(path, out var norm) ? norm.GetDouble() : 0;
                var allowed = (tolerance.GetProperty("atol").GetDouble() * Math.Sqrt(parameter.Count)) + (1e-5 * wanted);
                Assert.InRange(parameter.Gradient!.to(ScalarType.Float64).norm().item<double>(), wanted - allowed, wanted + allowed);
                parameter.Gradient = null;
            }
        }
    }
}
