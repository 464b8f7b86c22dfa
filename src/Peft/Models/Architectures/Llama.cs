using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>What all layers of a pass share.</summary>
/// <param name="Rotary">Positions; null for none.</param>
/// <param name="Plans">Who sees whom, by window (0 for none).</param>
/// <param name="Layout">Rows as recurrences read them.</param>
internal sealed record LlamaPass(RotaryTables? Rotary, IReadOnlyDictionary<long, AttentionPlan> Plans, SequenceLayout Layout)
{
    /// <summary>Positions of layers with a window, where theirs are others.</summary>
    public RotaryTables? LocalRotary { get; init; }

    /// <summary>Positions of a layer by its window.</summary>
    public RotaryTables? RotaryOf(long window) => window > 0 ? LocalRotary ?? Rotary : Rotary;
}

/// <summary>What lets a position see others: attention, or a recurrence in its place.</summary>
/// <param name="className">transformers' class name.</param>
/// <param name="layer">The block's place in the stack.</param>
/// <param name="localName">Its name in the block.</param>
internal abstract class LlamaMixer(string className, int layer, string localName = "self_attn") : Module(className)
{
    /// <summary>The block's place in the stack, under which it finds what it remembers of earlier positions.</summary>
    public int Layer { get; set; } = layer;

    /// <summary>Its name in the block.</summary>
    public string LocalName => localName;

    /// <summary>Runs it on x, [rows · length, width], and adds the result to <paramref name="residual"/> where there is one.</summary>
    public abstract Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context);
}

/// <summary>Attention with rotary positions and grouped key and value heads.</summary>
internal sealed class LlamaAttention : LlamaMixer
{
    private readonly AttentionShape _shape;
    private readonly LinearGroup _projections;
    private readonly Linear _output;
    private readonly RmsNorm? _queryNorm;
    private readonly RmsNorm? _keyNorm;
    private readonly Parameter? _sinks;
    private readonly long _window;
    private readonly bool _hasRotary;

    public LlamaAttention(LlamaConfig config, int layer)
        : base(config.Stem + "Attention", layer)
    {
        _window = config.Window(layer) ?? 0;
        _hasRotary = config.HasRotary(layer);
        _shape = config.Attention;
        var queries = Add("q_proj", new Linear(config.HiddenSize, _shape.Heads * _shape.HeadSize, config.ProjectionBias));
        var keys = Add("k_proj", new Linear(config.HiddenSize, _shape.KeyValueHeads * _shape.HeadSize, config.ProjectionBias));
        var values = Add("v_proj", new Linear(config.HiddenSize, _shape.KeyValueHeads * _shape.HeadSize, config.ProjectionBias));
        _output = Add(config.Names.Output, new Linear(_shape.Heads * _shape.HeadSize, config.HiddenSize, config.AttentionBias && config.Traits.HasOutputBias));
        _sinks = config.HasSinks ? AddParameter("sinks", [_shape.Heads]) : null;
        if (config.HasHeadNorms)
        {
            var together = config.Traits.NormsHeadsTogether;
            _queryNorm = Add(config.Names.QueryNorm, config.Norm(together ? _shape.Heads * _shape.HeadSize : _shape.HeadSize));
            _keyNorm = Add(config.Names.KeyNorm, config.Norm(together ? _shape.KeyValueHeads * _shape.HeadSize : _shape.HeadSize));
        }

        _projections = Group(queries, keys, values);
    }

    /// <summary>Whether it is queries, keys and values and nothing else.</summary>
    public bool IsPlain => _queryNorm is null && _sinks is null;

    /// <summary>Attention of x, added to <paramref name="residual"/>.</summary>
    public override Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context)
    {
        var projected = _projections.Forward(x, context);
        if (GatedPrompts.Of(Layer, context) is not { } prompt)
        {
            return _output.Forward(Attend(projected, pass, context), context, residual);
        }

        // As with PEFT the output layer is run on each of the two, so that its bias counts twice.
        var (attended, brought) = Attend(projected, prompt, pass, context);
        return ResidualSum.Forward(_output.Forward(attended, context, residual), _output.Forward(brought, context), context);
    }

    private Tensor Attend(Tensor projected, LlamaPass pass, ForwardContext context)
    {
        var rotary = _hasRotary ? pass.RotaryOf(_window) : null;
        if (_queryNorm is null || _keyNorm is null)
        {
            return Attention.Forward(projected, _shape, rotary, pass.Plans[_window], Layer, context, new ScoreTerms(Sinks: _sinks));
        }

        var width = _shape.KeyValueHeads * _shape.HeadSize;
        var parts = Splitting.Forward(projected, [_shape.Heads * _shape.HeadSize, width, width], context);
        return Attention.Forward(
            _queryNorm.Forward(parts[0], context), _keyNorm.Forward(parts[1], context), parts[2], _shape, rotary, pass.Plans[_window], Layer, context);
    }

    /// <summary>Attention, and what a gated prompt brings, which sees the rotated queries.</summary>
    private (Tensor Attended, Tensor Brought) Attend(Tensor projected, GatedPrompt prompt, LlamaPass pass, ForwardContext context)
    {
        var rotary = _hasRotary ? pass.RotaryOf(_window) : null;
        var width = _shape.KeyValueHeads * _shape.HeadSize;
        var parts = Splitting.Forward(projected, [_shape.Heads * _shape.HeadSize, width, width], context);
        var queries = rotary?.Forward(parts[0], _shape.HeadSize, context) ?? parts[0];
        var keys = rotary?.Forward(parts[1], _shape.HeadSize, context) ?? parts[1];
        var (promptKeys, promptValues) = GatedPrompts.Project(prompt, _projections.Forward, _shape, projected.dtype, context);
        return (
            Attention.Forward(queries, keys, parts[2], _shape, null, pass.Plans[_window], Layer, context),
            GatedPrompts.Attend(queries, prompt, promptKeys, promptValues, _shape, context));
    }
}

/// <summary>The gated MLP: down(act(gate(x)) · up(x)).</summary>
internal sealed class LlamaMLP : FeedForward
{
    private readonly LinearGroup _projections;
    private readonly Linear _down;
    private readonly Activation _activation;

    public LlamaMLP(LlamaConfig config, long? innerSize = null)
        : base(config.Stem + "MLP")
    {
        var inner = innerSize ?? config.InnerSize;
        var names = config.Names.Mlp;
        var gate = Add(names[0], new Linear(config.HiddenSize, inner, config.MlpBias));
        var up = Add(names[1], new Linear(config.HiddenSize, inner, config.MlpBias));
        _down = Add(names[2], new Linear(inner, config.HiddenSize, config.MlpBias));
        _activation = new Activation(config.ActivationName);
        if (config.Names.ListsActivation)
        {
            Add("act_fn", _activation);
        }

        _projections = Group(gate, up);
    }

    internal override long KeptBytes(int elementBytes) => GatedActivation.KeptBytesOf(_activation, _down.Inputs, elementBytes);

    public override IReadOnlyList<Tensor> Forward(Tensor x, Tensor? residual, ForwardContext context) => [Compute(x, residual, context)];

    /// <summary>The MLP of x, added to <paramref name="residual"/> where there is one.</summary>
    public Tensor Compute(Tensor x, Tensor? residual, ForwardContext context) => _down.Forward(
        GatedActivation.Forward(_projections.Forward(x, context), _activation, context), context, residual);
}

/// <summary>
/// A block: x + attention(norm(x)), then x + mlp(norm(x)); in some families with norms of what is added instead or as well, and a factor on it.
/// </summary>
internal sealed class LlamaDecoderLayer : Module
{
    private readonly LlamaMixer _attention;
    private readonly FeedForward _mlp;
    private readonly RmsNorm? _inputNorm;
    private readonly RmsNorm? _attentionNorm;
    private readonly RmsNorm? _innerNorm;
    private readonly RmsNorm? _outputNorm;
    private readonly Dropout? _attentionDropout;
    private readonly Dropout? _outputDropout;
    private readonly double _scale;

    public LlamaDecoderLayer(LlamaConfig config, int layer)
        : base(config.Stem + "DecoderLayer")
    {
        var names = config.Names;
        _scale = config.ResidualScale;
        _attention = config.Mixer(layer);
        Add(_attention.LocalName, _attention);
        _mlp = Add(names.FeedForward, config.FeedForward(layer));
        _inputNorm = Norm(names.InputNorm);
        _innerNorm = names.ListsInnerNormFirst ? Norm(names.InnerNorm) : null;
        _attentionNorm = Norm(names.AttentionNorm);
        _innerNorm ??= Norm(names.InnerNorm);
        _outputNorm = Norm(names.OutputNorm);
        if (names.Dropouts is { } dropouts)
        {
            _attentionDropout = Add(dropouts.Attention, new Dropout(config.Source.Number("resid_pdrop") ?? 0));
            _outputDropout = Add(dropouts.FeedForward, new Dropout(config.Source.Number("resid_pdrop") ?? 0));
        }

        RmsNorm? Norm(string? name) => name is null ? null : Add(name, config.Norm(config.HiddenSize));
    }

    /// <summary>What lets positions see others.</summary>
    public LlamaMixer Mixer => _attention;

    /// <summary>Says the block where it stands in the stack.</summary>
    public void MoveTo(int place) => _attention.Layer = place;

    public IReadOnlyList<Tensor> Forward(Tensor x, LlamaPass pass, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var normed = _inputNorm?.Forward(x, context) ?? x;
        var attended = IsPlain(_attentionNorm, _attentionDropout, context)
            ? _attention.Forward(normed, x, pass, context)
            : Sum(x, _attention.Forward(normed, null, pass, context), _attentionNorm, _attentionDropout, context);
        normed = _innerNorm?.Forward(attended, context) ?? attended;
        if (IsPlain(_outputNorm, _outputDropout, context))
        {
            return DecoderStack.Kept(_mlp.Forward(normed, attended, context));
        }

        var outputs = _mlp.Forward(normed, null, context);
        return DecoderStack.Kept([Sum(attended, outputs[0], _outputNorm, _outputDropout, context), .. outputs.Skip(1)]);
    }

    /// <summary>Whether what is added can be added in the product that forms it.</summary>
    private bool IsPlain(RmsNorm? norm, Dropout? dropout, ForwardContext context) => norm is null && _scale == 1 && dropout?.Acts(context) != true;

    private Tensor Sum(Tensor x, Tensor added, RmsNorm? norm, Dropout? dropout, ForwardContext context)
    {
        added = norm?.Forward(added, context) ?? added;
        return ResidualSum.Forward(x, dropout?.Forward(added, context) ?? added, context, _scale);
    }
}

/// <summary>The stack of blocks between the embedding and the final norm.</summary>
internal sealed class LlamaModel : Backbone
{
    private readonly LlamaConfig _config;
    private readonly ModuleList<LlamaDecoderLayer> _layers;
    private readonly RmsNorm _norm;
    private readonly RotaryEmbedding _rotary;
    private readonly RotaryEmbedding? _localRotary;
    private readonly long[] _windows;
    private readonly double _scale;

    public LlamaModel(ModelConfig source, LlamaTraits? traits = null)
        : base(source, source.Family.Stem + traits?.Part + "Model")
    {
        traits ??= new LlamaTraits();
        var config = _config = new LlamaConfig(source, traits);
        Width = config.HiddenSize;
        _scale = source.Number("embedding_multiplier") ?? 1;
        TokenEmbeddings = Add("embed_tokens", new Embedding(
            config.VocabularySize, Width, source.Integer("pad_token_id"), traits.EmbeddingScale?.ClassName ?? "Embedding", traits.EmbeddingScale?.Of(Width) ?? 1));
        _layers = Add("layers", new ModuleList<LlamaDecoderLayer>(Enumerable.Range(0, config.Layers).Select(i => new LlamaDecoderLayer(config, i))));
        _norm = config.Norm(config.HiddenSize);
        _rotary = config.Rotary(isLocal: false);
        _localRotary = traits.LocalBase is null ? null : config.Rotary(isLocal: true);
        if (traits.Names.ListsRotaryFirst)
        {
            Add(traits.Names.Rotary, _rotary);
        }

        Add(traits.Names.FinalNorm, _norm);
        if (!traits.Names.ListsRotaryFirst)
        {
            Add(traits.Names.Rotary, _rotary);
        }

        _windows = [.. Enumerable.Range(0, config.Layers).Select(i => config.Window(i) ?? 0).Distinct()];
    }

    public override long Width { get; }

    public override Embedding TokenEmbeddings { get; }

    public override bool CanContinue(long from, long to) => _rotary.CanContinue(from, to);

    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var (type, device) = (embeddings.dtype, embeddings.device);
        var pass = new LlamaPass(
            _rotary.For(context, type, device),
            _windows.ToDictionary(static window => window, window => AttentionPlan.Causal(context, device, window == 0 ? null : window)),
            SequenceLayout.For(context, device))
        {
            LocalRotary = _localRotary?.For(context, type, device),
        };
        var grown = _scale == 1 ? embeddings : ParameterTensor.Run(values => values[0] * _scale, [embeddings], [], context);
        var stack = DecoderStack.Run(_layers.Items, grown, [], context, (layer, inputs, inner) => layer.Forward(inputs[0], pass, inner));
        var routers = stack.AllSides;
        return new BackboneOutput(_norm.Forward(stack.Output, context), context.Rows, context.Length)
        {
            HiddenStates = stack.Inputs,
            RouterLogits = routers,
            AuxiliaryLoss = RouterBalance.Loss(Config, routers, context),
        };
    }

    public override string? GatedPromptTarget => _layers.Items.All(static layer => layer.Mixer is LlamaAttention { IsPlain: true }) ? "self_attn" : null;

    public override Action ReplicateLayers(IReadOnlyList<int> sources) => LayerReplication.Replace(
        _layers, sources, source => new LlamaDecoderLayer(_config, source), static (block, place) => block.MoveTo(place));

    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            _localRotary?.Dispose();
        }

        base.Dispose(disposing);
    }
}
