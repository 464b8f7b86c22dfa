using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>What a block computes of each position by itself, added to <paramref name="residual"/>.</summary>
/// <param name="x">[rows · length, width], normed.</param>
/// <param name="residual">Of the same shape.</param>
/// <param name="context">The forward pass.</param>
internal delegate Tensor DecoderMlp(Tensor x, Tensor residual, ForwardContext context);

/// <summary>How a block puts its two halves together.</summary>
internal enum BlockForm
{
    /// <summary>x + attention(norm(x)), then x + mlp(norm(x)).</summary>
    OneAfterTheOther,

    /// <summary>x + attention(norm(x)) + mlp(norm(x)), with one norm or two (Wang and Komatsuzaki 2021).</summary>
    SideBySide,

    /// <summary>norm(x + attention(x)), then norm(x + mlp(x)) (OPT's 350M).</summary>
    NormsAfterwards,

    /// <summary>norm(x) + attention(norm(x)), then norm(x) + mlp(norm(x)) (BLOOM's <c>apply_residual_connection_post_layernorm</c>).</summary>
    NormsInResidual,
}

/// <summary>What all blocks of a decoder's pass share.</summary>
/// <param name="Plans">Who sees whom, by window (0 for none).</param>
/// <param name="Rotary">Turns queries and keys; null for other positions.</param>
internal sealed record DecoderPass(IReadOnlyDictionary<long, AttentionPlan> Plans, RotaryTables? Rotary)
{
    /// <summary>Added to scores; null for nothing.</summary>
    public Tensor? Bias { get; init; }
}

/// <summary>A decoder's attention.</summary>
/// <param name="Shape">The sizes.</param>
/// <param name="Layer">Index of its block.</param>
/// <param name="Project">Gives queries, keys and values side by side.</param>
/// <param name="Output">The layer after it.</param>
internal sealed record DecoderAttention(AttentionShape Shape, int Layer, Func<Tensor, ForwardContext, Tensor> Project, Linear Output)
{
    /// <summary>Drops elements of the output; null for nothing.</summary>
    public Dropout? Dropout { get; init; }

    /// <summary>How many of the last positions it sees, its own included; 0 for all.</summary>
    public long Window { get; init; }

    /// <summary>Norms of the heads of queries and of keys; null for none.</summary>
    public (Func<Tensor, ForwardContext, Tensor> Queries, Func<Tensor, ForwardContext, Tensor> Keys)? Norms { get; init; }

    /// <summary>The sizes of heads that share a model's width evenly, with scores over the root of a head's.</summary>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>.</exception>
    public static AttentionShape ShapeOf(long width, long heads, long? keyValueHeads = null, double? dropout = null)
    {
        var shared = keyValueHeads ?? heads;
        return width % heads == 0 && heads % shared == 0
            ? new AttentionShape(heads, shared, width / heads, 1 / Math.Sqrt(width / heads)) { Dropout = dropout ?? 0 }
            : throw new PeftException("ModelConfigInvalid", FormattableString.Invariant(
                $"{heads} attention heads can't share a width of {width} and {shared} key and value heads evenly."));
    }

    /// <summary>Projections that one layer holds in an order of its own.</summary>
    public static Func<Tensor, ForwardContext, Tensor> Ordered(Linear projections, HeadOrder order) => (x, context) => order.Forward(projections.Forward(x, context), context);

    /// <summary>Attention of x, added to <paramref name="residual"/>.</summary>
    public Tensor Forward(Tensor x, Tensor residual, DecoderPass pass, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        if (GatedPrompts.Of(Layer, context) is { } prompt)
        {
            return Forward(x, residual, prompt, pass, context).MoveToOuterDisposeScope();
        }

        var terms = new ScoreTerms(pass.Bias);
        var projected = Project(x, context);
        if (Norms is not { } norms)
        {
            return Add(Attention.Forward(projected, Shape, pass.Rotary, pass.Plans[Window], Layer, context, terms));
        }

        var width = Shape.KeyValueHeads * Shape.HeadSize;
        var parts = Splitting.Forward(projected, [Shape.Heads * Shape.HeadSize, width, width], context);
        var (queries, keys) = (norms.Queries(parts[0], context), norms.Keys(parts[1], context));
        return Add(Attention.Forward(queries, keys, parts[2], Shape, pass.Rotary, pass.Plans[Window], Layer, context, terms));

        Tensor Add(Tensor attended) => ResidualSum.Forward(residual, Output, Dropout, attended, context).MoveToOuterDisposeScope();
    }

    /// <summary>As PEFT has it for GPT-2, what a gated prompt brings doesn't go through the output layer, and its scores are over the root of a head's size whatever the layer's.</summary>
    private Tensor Forward(Tensor x, Tensor residual, GatedPrompt prompt, DecoderPass pass, ForwardContext context)
    {
        var width = Shape.KeyValueHeads * Shape.HeadSize;
        var parts = Splitting.Forward(Project(x, context), [Shape.Heads * Shape.HeadSize, width, width], context);
        var (keys, values) = GatedPrompts.Project(prompt, Project, Shape, x.dtype, context);
        var attended = Attention.Forward(parts[0], parts[1], parts[2], Shape, pass.Rotary, pass.Plans[Window], Layer, context, new ScoreTerms(pass.Bias));
        var brought = GatedPrompts.Attend(parts[0], prompt, keys, values, Shape with { Scale = 1 / Math.Sqrt(Shape.HeadSize) }, context);
        return ResidualSum.Forward(ResidualSum.Forward(residual, Output, Dropout, attended, context), brought, context);
    }
}

/// <summary>The MLPs that decoders have.</summary>
internal static class DecoderMlps
{
    /// <summary>output(act(inner(x))).</summary>
    public static DecoderMlp Plain(Linear inner, Activation activation, Linear output, Dropout? dropout = null) => (x, residual, context) =>
        ResidualSum.Forward(residual, output, dropout, activation.Forward(inner.Forward(x, context), context), context);

    /// <summary>down(act(gate(x)) · up(x)).</summary>
    /// <param name="gateUp">Gate and up as one product.</param>
    /// <param name="activation">The activation.</param>
    /// <param name="down">The layer after it.</param>
    /// <param name="dropout">Drops elements of the output; null for nothing.</param>
    public static DecoderMlp Gated(LinearGroup gateUp, Activation activation, Linear down, Dropout? dropout = null) => (x, residual, context) =>
        ResidualSum.Forward(residual, down, dropout, GatedActivation.Forward(gateUp.Forward(x, context), activation, context), context);
}

/// <summary>What a block computes with.</summary>
/// <param name="AttentionNorm">The norm of attention.</param>
/// <param name="Attention">Attention.</param>
/// <param name="MlpNorm">The norm of the MLP; null where both halves read the first one's.</param>
/// <param name="Mlp">The MLP.</param>
internal sealed record BlockParts(LayerNorm AttentionNorm, DecoderAttention Attention, LayerNorm? MlpNorm, DecoderMlp Mlp)
{
    /// <summary>How they are put together.</summary>
    public BlockForm Form { get; init; }
}

/// <summary>A block of a decoder.</summary>
internal sealed class DecoderBlock : Module
{
    private BlockParts _parts;

    /// <summary>Makes a block.</summary>
    /// <param name="className">transformers' class name.</param>
    /// <param name="parts">What it computes with.</param>
    /// <param name="tree">What stands below it, in transformers' order.</param>
    public DecoderBlock(string className, BlockParts parts, params IReadOnlyList<(string Name, Module? Module)> tree)
        : base(className)
    {
        _parts = parts;
        AddAll(tree);
    }

    /// <summary>How many positions its attention sees; 0 for all.</summary>
    public long Window => _parts.Attention.Window;

    /// <summary>Whether another block attends with the same sizes, scale and window.</summary>
    public bool AttendsLike(DecoderBlock other) => (_parts.Attention.Shape, Window) == (other._parts.Attention.Shape, other.Window);

    /// <summary>Says the block where it stands in the stack.</summary>
    public void MoveTo(int place) => _parts = _parts with { Attention = _parts.Attention with { Layer = place } };

    /// <summary>Runs the block.</summary>
    public Tensor Forward(Tensor x, DecoderPass pass, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var (first, attention, second, mlp) = _parts;
        if (_parts.Form == BlockForm.NormsAfterwards)
        {
            var middle = first.Forward(attention.Forward(x, x, pass, context), context);
            return second!.Forward(mlp(middle, middle, context), context).MoveToOuterDisposeScope();
        }

        var keepsNorms = _parts.Form == BlockForm.NormsInResidual;
        var normed = first.Forward(x, context);
        var attended = attention.Forward(normed, keepsNorms ? normed : x, pass, context);
        var inner = second?.Forward(_parts.Form == BlockForm.SideBySide ? x : attended, context) ?? normed;
        return mlp(inner, keepsNorms ? inner : attended, context).MoveToOuterDisposeScope();
    }
}

/// <summary>What a decoder computes with.</summary>
/// <param name="Tokens">Vectors of tokens.</param>
/// <param name="Blocks">The stack.</param>
internal sealed record DecoderParts(Embedding Tokens, ModuleList<DecoderBlock> Blocks)
{
    /// <summary>What is done to the vectors of tokens (positions, a norm, a dropout); null for nothing.</summary>
    public Func<Tensor, ForwardContext, Tensor>? Begin { get; init; }

    /// <summary>What is done to the last block's output; null for nothing.</summary>
    public Func<Tensor, ForwardContext, Tensor>? End { get; init; }

    /// <summary>Rotary positions; null for none. They need not stand in the tree.</summary>
    public RotaryEmbedding? Rotary { get; init; }

    /// <summary>Biases of distance; null for none.</summary>
    public Alibi? Alibi { get; init; }

    /// <summary>What blocks call attention, where it reads gated prompts; null where it doesn't.</summary>
    public string? GatedPromptTarget { get; init; }
}

/// <summary>A decoder: vectors of tokens, a stack of blocks, a last norm.</summary>
internal sealed class DecoderModel : Backbone
{
    private readonly DecoderParts _parts;
    private readonly long[] _windows;

    /// <summary>Makes a decoder.</summary>
    /// <param name="source">The configuration.</param>
    /// <param name="parts">What it computes with.</param>
    /// <param name="tree">What stands in it, in transformers' order.</param>
    public DecoderModel(ModelConfig source, DecoderParts parts, params IReadOnlyList<(string Name, Module? Module)> tree)
        : base(source, source.Family.Stem + "Model")
    {
        _parts = parts;
        _windows = [.. parts.Blocks.Items.Select(static block => block.Window).Append(0).Distinct()];
        AddAll(tree);
    }

    /// <inheritdoc/>
    public override long Width => _parts.Tokens.Size;

    /// <inheritdoc/>
    public override Embedding TokenEmbeddings => _parts.Tokens;

    /// <inheritdoc/>
    public override string? GatedPromptTarget => _parts.GatedPromptTarget;

    /// <summary>The stack of a configuration.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="key">Key of the number of blocks.</param>
    /// <param name="fallback">That number where it is absent.</param>
    /// <param name="block">Makes the block of an index.</param>
    public static ModuleList<DecoderBlock> Stack(ModelConfig config, string key, int fallback, Func<int, DecoderBlock> block) =>
        new(Enumerable.Range(0, (int)config.Size(key, fallback, least: 0, most: 10_000)).Select(block)) { Make = block };

    /// <inheritdoc/>
    public override bool CanContinue(long from, long to) => _parts.Rotary?.CanContinue(from, to) ?? true;

    /// <inheritdoc/>
    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var (type, device) = (embeddings.dtype, embeddings.device);
        var pass = new DecoderPass(
            _windows.ToDictionary(static window => window, window => AttentionPlan.Causal(context, device, window == 0 ? null : window)),
            _parts.Rotary?.For(context, type, device));
        var x = _parts.Begin?.Invoke(embeddings, context) ?? embeddings;
        Tensor[] shared = _parts.Alibi is { } alibi ? [alibi.Bias(context, type, device)] : [];
        var stack = DecoderStack.Run(
            _parts.Blocks.Items, x, shared, context, (block, values, inner) => [block.Forward(values[0], pass with { Bias = values.ElementAtOrDefault(1) }, inner)]);
        return new BackboneOutput(_parts.End?.Invoke(stack.Output, context) ?? stack.Output, context.Rows, context.Length) { HiddenStates = stack.Inputs };
    }

    /// <inheritdoc/>
    public override Action ReplicateLayers(IReadOnlyList<int> sources)
    {
        var blocks = _parts.Blocks;
        foreach (var (place, source) in sources.Index())
        {
            // A model that is saved and read again would have another block there than the one that stands there now.
            using var usual = blocks.Make!(place);
            if (!usual.AttendsLike(blocks.Items[source]))
            {
                throw new NotSupportedByPeftException("LayersNotReplicable", $"Block {source} of {ClassName} can't stand in place {place}: its place decides how far a block sees or how its scores are scaled.")
                {
                    RecommendedAction = "Give ranges that leave blocks of one kind in the same places, or leave layer_replication out.",
                };
            }
        }

        return LayerReplication.Replace(blocks, sources, blocks.Make!, static (block, place) => block.MoveTo(place));
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            _parts.Rotary?.Dispose();
        }

        base.Dispose(disposing);
    }
}
