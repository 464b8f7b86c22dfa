using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>What a gated prompt brings to a layer's attention (Zhang et al. 2023): gate · softmax(q kᵀ) v, with its own softmax beside the row's.</summary>
internal static class GatedPrompts
{
    /// <summary>The prompt of a layer in this pass, or null.</summary>
    public static GatedPrompt? Of(int layer, ForwardContext context) => context.Prompt?.Gated?.GetValueOrDefault(layer);

    /// <summary>Keys and values of the prompt, [length, heads · head size] each, by a layer's projections.</summary>
    /// <param name="prompt">The prompt.</param>
    /// <param name="project">Gives queries, keys and values side by side.</param>
    /// <param name="shape">The attention's sizes.</param>
    /// <param name="type">The type to compute in.</param>
    /// <param name="context">The forward pass.</param>
    public static (Tensor Keys, Tensor Values) Project(GatedPrompt prompt, Func<Tensor, ForwardContext, Tensor> project, AttentionShape shape, ScalarType type, ForwardContext context)
    {
        var vectors = ParameterTensor.Run(values => LinearProduct.Cast(values[0], type).alias(), [prompt.Vectors], [], context);
        var width = shape.KeyValueHeads * shape.HeadSize;
        var parts = Splitting.Forward(project(vectors, context with { Rows = 1, Length = prompt.Vectors.size(0) }), [shape.Heads * shape.HeadSize, width, width], context);
        return (parts[1], parts[2]);
    }

    /// <summary>What the prompt brings to each position, [rows · length, heads · head size].</summary>
    /// <param name="queries">The layer's queries, rotated, [rows · length, heads · head size].</param>
    /// <param name="prompt">The prompt.</param>
    /// <param name="keys">Its keys.</param>
    /// <param name="values">Its values.</param>
    /// <param name="shape">The attention's sizes.</param>
    /// <param name="context">The forward pass.</param>
    public static Tensor Attend(Tensor queries, GatedPrompt prompt, Tensor keys, Tensor values, AttentionShape shape, ForwardContext context)
    {
        var plan = AttentionPlan.Across(context, queries.device, keys.size(0), null);
        var seen = Attention.Forward(queries, ForEachRow(keys), ForEachRow(values), shape with { Dropout = 0 }, null, plan, null, context);
        return ParameterTensor.Run(static given => given[0] * given[1].to(given[0].dtype), [seen, prompt.Gate], [], context);

        Tensor ForEachRow(Tensor of) => ParameterTensor.Run(given => given[0].repeat(context.Rows, 1), [of], [], context);
    }
}
