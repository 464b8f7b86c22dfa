using System.Text.Json.Nodes;
using Peft.Models.Heads;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>How a DeBERTa of the second or third version sees positions: by distance alone, apart from content (He et al. 2021, 2023).</summary>
internal sealed class DebertaV2Positions
{
    private readonly long _buckets;
    private readonly long _farthest;

    public DebertaV2Positions(ModelConfig config)
    {
        IsRelative = config.Boolean("relative_attention") ?? false;
        _buckets = config.Integer("position_buckets") ?? -1;
        _farthest = config.Integer("max_relative_positions") ?? -1;
        _farthest = _farthest < 1 ? config.Size("max_position_embeddings", 512) : _farthest;
        Span = _buckets > 0 ? _buckets : _farthest;
        var kinds = config.Node("pos_att_type") switch
        {
            JsonArray => config.Texts("pos_att_type")!,
            JsonValue value when value.TryGetValue<string>(out var one) => one.ToLowerInvariant().Split('|', StringSplitOptions.TrimEntries),
            _ => [],
        };
        (HasContentToPosition, HasPositionToContent) = (kinds.Contains("c2p"), kinds.Contains("p2c"));
        SharesProjections = config.Boolean("share_att_key") ?? false;
        IsNormed = config.String("norm_rel_ebd")?.Contains("layer_norm", StringComparison.OrdinalIgnoreCase) == true;
    }

    public bool IsRelative { get; }

    /// <summary>How many distances to each side have a vector of their own.</summary>
    public long Span { get; }

    public bool HasContentToPosition { get; }

    public bool HasPositionToContent { get; }

    /// <summary>Whether positions go through the projections of content.</summary>
    public bool SharesProjections { get; }

    public bool IsNormed { get; }

    /// <summary>Number of terms that scores are a sum of.</summary>
    public int Terms => 1 + (HasContentToPosition ? 1 : 0) + (HasPositionToContent ? 1 : 0);

    /// <summary>The vector of each distance, query minus key: near ones each its own, farther ones by the logarithm; int64 [length, length].</summary>
    public Tensor Distances(long length, Device device)
    {
        var positions = arange(length, ScalarType.Int64, device);
        var distances = positions.unsqueeze(1).sub(positions.unsqueeze(0));
        if (_buckets <= 0)
        {
            return distances;
        }

        var middle = _buckets / 2;
        var away = where(distances.lt(middle).logical_and(distances.gt(-middle)), full_like(distances, middle - 1), distances.abs());
        var range = tensor((float)((_farthest - 1.0) / middle), ScalarType.Float32, device).log();
        var far = away.to(ScalarType.Float32).div(middle).log().div(range).mul(middle - 1).ceil().add(middle);
        return where(away.le(middle), distances, far.to(ScalarType.Int64).mul(distances.sign()));
    }
}

/// <summary>Vectors of tokens, normed; padding becomes zero.</summary>
internal sealed class DebertaV2Embeddings : Module
{
    private readonly Embedding? _positions;
    private readonly Embedding? _types;
    private readonly Linear? _project;
    private readonly LayerNorm _norm;
    private readonly Dropout _dropout;

    public DebertaV2Embeddings(BertConfig config)
    {
        var source = config.Source;
        var size = source.Size("embedding_size", config.HiddenSize);
        Words = Add("word_embeddings", new Embedding(source.Size("vocab_size", 128100), size, config.Padding));
        if (source.Boolean("position_biased_input") ?? true)
        {
            _positions = Add("position_embeddings", new Embedding(source.Size("max_position_embeddings", 512), size));
        }

        if (source.Size("type_vocab_size", 0, least: 0) is > 0 and var count)
        {
            _types = Add("token_type_embeddings", new Embedding(count, size));
        }

        _project = size == config.HiddenSize ? null : Add("embed_proj", new Linear(size, config.HiddenSize));
        _norm = Add("LayerNorm", config.Norm());
        _dropout = Add("dropout", new Dropout(config.DropoutRate));
    }

    public Embedding Words { get; }

    public Tensor Forward(Tensor words, ModelInputs inputs, ForwardContext context)
    {
        var x = _positions is null ? words : ResidualSum.Forward(words, LearnedPositions.Forward(_positions, context, words.device), context);
        x = _types is null ? x : ResidualSum.Forward(x, _types.Forward(BertEmbeddings.TokenTypes(inputs, context, x.device), context), context);
        x = _norm.Forward(_project is null ? x : _project.Forward(x, context), context);
        return _dropout.Forward(PaddingMask.Apply(x, context), context);
    }
}

/// <summary>Attention whose scores are a sum: content with content, content with distance, distance with content.</summary>
internal sealed class DisentangledSelfAttention : Module
{
    private readonly DebertaV2Positions _positions;
    private readonly AttentionShape _shape;
    private readonly Linear _queries;
    private readonly Linear _keys;
    private readonly LinearGroup _projections;
    private readonly Linear? _positionKeys;
    private readonly Linear? _positionQueries;
    private readonly Dropout? _positionDropout;

    public DisentangledSelfAttention(BertConfig config, DebertaV2Positions positions)
    {
        _positions = positions;
        _shape = config.Attention with { Scale = 1 / Math.Sqrt(config.Attention.HeadSize * positions.Terms) };
        _queries = Add("query_proj", Square());
        _keys = Add("key_proj", Square());
        _projections = Group(_queries, _keys, Add("value_proj", Square()));
        if (positions.IsRelative)
        {
            _positionDropout = Add("pos_dropout", new Dropout(config.DropoutRate));
            _positionKeys = positions.SharesProjections ? _keys : positions.HasContentToPosition ? Add("pos_key_proj", Square()) : null;
            _positionQueries = positions.SharesProjections ? _queries : positions.HasPositionToContent ? Add("pos_query_proj", Square()) : null;
        }

        Add("dropout", new Dropout(_shape.Dropout));

        Linear Square() => new(config.HiddenSize, config.HiddenSize, hasBias: true);
    }

    /// <summary>Runs it.</summary>
    /// <param name="inputs">The hidden states, and the vectors of distances where there are.</param>
    /// <param name="distances">Which vector belongs to which pair of positions.</param>
    /// <param name="plan">Who sees whom.</param>
    /// <param name="context">The forward pass.</param>
    public Tensor Forward(IReadOnlyList<Tensor> inputs, Tensor? distances, AttentionPlan plan, ForwardContext context)
    {
        var width = _shape.Heads * _shape.HeadSize;
        var parts = Splitting.Forward(_projections.Forward(inputs[0], context), [width, width, width], context);
        var bias = distances is null || _positions.Terms == 1 ? null : Bias(parts[0], parts[1], inputs[1], distances, context);
        return Attention.Forward(parts[0], parts[1], parts[2], _shape, null, plan, null, context, new ScoreTerms(bias));
    }

    private Tensor Bias(Tensor q, Tensor k, Tensor vectors, Tensor distances, ForwardContext context)
    {
        vectors = _positionDropout!.Forward(vectors, context);
        List<Tensor> inputs = [q, k];
        if (_positions.HasContentToPosition)
        {
            inputs.Add(_positionKeys!.Forward(vectors, context));
        }

        if (_positions.HasPositionToContent)
        {
            inputs.Add(_positionQueries!.Forward(vectors, context));
        }

        var (rows, length) = (context.Rows, context.Length);
        return context.Tape is { } tape ? tape.Autograd(Form, inputs, []) : Form(inputs);

        Tensor Form(IReadOnlyList<Tensor> values)
        {
            Tensor? sum = null;
            if (_positions.HasContentToPosition)
            {
                var places = distances.add(_positions.Span).clamp(0, (_positions.Span * 2) - 1).expand(rows, _shape.Heads, length, length);
                sum = Heads(values[0], rows).matmul(Heads(values[2], 1).transpose(-1, -2)).gather(3, places);
            }

            if (_positions.HasPositionToContent)
            {
                var places = distances.neg().add(_positions.Span).clamp(0, (_positions.Span * 2) - 1).expand(rows, _shape.Heads, length, length);
                var own = Heads(values[1], rows).matmul(Heads(values[^1], 1).transpose(-1, -2)).gather(3, places).transpose(-1, -2);
                sum = sum is null ? own : sum.add(own);
            }

            return sum!.mul(_shape.Scale);
        }

        Tensor Heads(Tensor x, long of) => x.reshape(of, -1, _shape.Heads, _shape.HeadSize).transpose(1, 2);
    }
}

/// <summary>The stack of blocks, with the vectors of distances that all of them read.</summary>
internal sealed class DebertaV2Encoder : Module
{
    private readonly DebertaV2Positions _positions;
    private readonly ModuleList<BertLayer<DisentangledSelfAttention>> _layers;
    private readonly Embedding? _vectors;
    private readonly LayerNorm? _norm;
    private readonly DebertaV2Convolution? _convolution;

    public DebertaV2Encoder(BertConfig config)
    {
        _positions = new DebertaV2Positions(config.Source);
        _layers = Add("layer", new ModuleList<BertLayer<DisentangledSelfAttention>>(
            Enumerable.Range(0, config.Layers).Select(_ => new BertLayer<DisentangledSelfAttention>(config, new DisentangledSelfAttention(config, _positions)))));
        _vectors = _positions.IsRelative ? Add("rel_embeddings", new Embedding(2 * _positions.Span, config.HiddenSize)) : null;
        _norm = _positions.IsNormed ? Add("LayerNorm", config.Norm()) : null;
        _convolution = config.Source.Integer("conv_kernel_size") is > 0 ? Add("conv", new DebertaV2Convolution(config)) : null;
    }

    public StackOutput Forward(Tensor x, ForwardContext context)
    {
        var plan = AttentionPlan.BothWays(context, x.device, paddingSeesNothing: true);
        var distances = _vectors is null ? null : _positions.Distances(context.Length, x.device);
        IReadOnlyList<Tensor> shared = [];
        if (distances is not null)
        {
            context.Tape?.Share(distances);
            var table = _vectors!.Forward(arange(2 * _positions.Span, ScalarType.Int64, x.device), context);
            shared = [_norm is null ? table : _norm.Forward(table, context)];
        }

        if (_convolution is null || _layers.Items.Count == 0)
        {
            return Run(_layers.Items, x);
        }

        // The convolution reads the encoder's input and acts behind the first block.
        var first = Run([_layers.Items[0]], x);
        var rest = Run([.. _layers.Items.Skip(1)], _convolution.Forward(x, first.Output, context));
        return rest with { Inputs = first.Inputs is null ? null : [.. first.Inputs, .. rest.Inputs!] };

        StackOutput Run(IReadOnlyList<BertLayer<DisentangledSelfAttention>> blocks, Tensor input) => DecoderStack.Run(
            blocks, input, shared, context, (layer, inputs, inner) => [layer.Forward(inputs[0], self => self.Forward(inputs, distances, plan, inner), inner)]);
    }
}

/// <summary>What the largest models have beside their first block: norm(block + act(convolution of the input)), zero for padding.</summary>
internal sealed class DebertaV2Convolution : Module
{
    private readonly Kernel _kernel;
    private readonly LayerNorm _norm;
    private readonly Dropout _dropout;
    private readonly Activation _activation;

    public DebertaV2Convolution(BertConfig config)
        : base("ConvLayer")
    {
        _kernel = Add("conv", new Kernel(config.HiddenSize, config.Source.Size("conv_kernel_size", 3), config.Source.Size("conv_groups", 1)));
        _norm = Add("LayerNorm", config.Norm());
        _dropout = Add("dropout", new Dropout(config.DropoutRate));
        _activation = new Activation(config.Source.String("conv_act") ?? "tanh");
    }

    public Tensor Forward(Tensor x, Tensor residual, ForwardContext context)
    {
        var active = _activation.Forward(_dropout.Forward(PaddingMask.Apply(_kernel.Forward(x, context), context), context), context);
        return PaddingMask.Apply(_norm.Forward(ResidualSum.Forward(residual, active, context), context), context);
    }

    private sealed class Kernel : Module
    {
        private readonly long _size;
        private readonly long _groups;
        private readonly Parameter _weight;
        private readonly Parameter _bias;

        public Kernel(long width, long size, long groups)
            : base("Conv1d")
        {
            (_size, _groups) = (size, groups);
            _weight = AddParameter("weight", [width, width / groups, size]);
            _bias = AddParameter("bias", [width]);
            Details = $"{width}, {width}, kernel_size=({size},), stride=(1,)"
                + (size > 2 ? $", padding=({(size - 1) / 2},)" : "") + (groups > 1 ? $", groups={groups}" : "");
        }

        public override string Details { get; }

        public Tensor Forward(Tensor x, ForwardContext context)
        {
            return ParameterTensor.Run(Form, [x], [_weight, _bias], context);

            Tensor Form(IReadOnlyList<Tensor> values) => nn.functional.conv1d(
                values[0].view(context.Rows, context.Length, -1).transpose(1, 2), values[1], values[2], padding: (_size - 1) / 2, groups: _groups)
                .transpose(1, 2).reshape(values[0].shape);
        }
    }
}

/// <summary>Makes hidden states of padding zero.</summary>
internal static class PaddingMask
{
    public static Tensor Apply(Tensor x, ForwardContext context)
    {
        if (context.AttentionMask is not { } mask)
        {
            return x;
        }

        var tokens = mask.narrow(1, mask.size(1) - context.Length, context.Length).reshape(-1, 1).to(x.dtype);
        return context.Tape is { } tape ? tape.Autograd(values => values[0].mul(tokens), [x], []) : x.mul(tokens);
    }
}

/// <summary>Embeddings and the stack of blocks.</summary>
internal sealed class DebertaV2Model : Backbone
{
    private readonly DebertaV2Embeddings _embeddings;
    private readonly DebertaV2Encoder _encoder;

    public DebertaV2Model(ModelConfig source)
        : base(source, source.Family.Stem + "Model")
    {
        var config = new BertConfig(source);
        Width = config.HiddenSize;
        _embeddings = Add("embeddings", new DebertaV2Embeddings(config));
        _encoder = Add("encoder", new DebertaV2Encoder(config));
    }

    public override long Width { get; }

    public override Embedding TokenEmbeddings => _embeddings.Words;

    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var stack = _encoder.Forward(_embeddings.Forward(embeddings, inputs, context), context);
        return new BackboneOutput(stack.Output, context.Rows, context.Length) { HiddenStates = stack.Inputs };
    }
}

/// <summary>A classifier of rows over the first position.</summary>
internal sealed class DebertaV2SequenceClassificationModel : SequenceClassificationModel
{
    private const string HeadName = "classifier";
    private const string PoolerName = "pooler";

    private readonly ContextPooler _pooler;
    private readonly Linear _classifier;
    private readonly Dropout _dropout;

    public DebertaV2SequenceClassificationModel(ModelConfig config, string className)
        : base(config.Family.Backbone(config), className)
    {
        AddBackbone();
        _pooler = Add(PoolerName, new ContextPooler(config, Backbone.Width));
        _classifier = Add(HeadName, new Linear(Backbone.Width, LabelCount, hasBias: true));
        _dropout = Add("dropout", new Dropout(config.Number("cls_dropout") ?? new BertConfig(config).DropoutRate));
    }

    public override string? ClassificationHead => HeadName;

    public override IReadOnlyList<string> FreshModules => [PoolerName, HeadName];

    public override Tensor Logits(BackboneOutput output, ForwardContext context)
    {
        context = output.In(context) with { Length = 1 };
        return _classifier.Forward(_dropout.Forward(_pooler.Forward(BertHeads.FirstPosition(output, context), context), context), context);
    }

    private sealed class ContextPooler : Module
    {
        private readonly Linear _dense;
        private readonly Dropout _dropout;
        private readonly Activation _activation;

        public ContextPooler(ModelConfig config, long width)
        {
            _dense = Add("dense", new Linear(width, width, hasBias: true));
            _dropout = Add("dropout", new Dropout(config.Number("pooler_dropout") ?? 0));
            _activation = new Activation(config.String("pooler_hidden_act") ?? "gelu");
        }

        public Tensor Forward(Tensor first, ForwardContext context) => _activation.Forward(_dense.Forward(_dropout.Forward(first, context), context), context);
    }
}

/// <summary>DeBERTa's heads.</summary>
internal static class DebertaV2Heads
{
    public static IReadOnlyList<HeadRow> All { get; } =
    [
        new("ForMaskedLM", "MASKED_LM", static (config, name) => config.Boolean("legacy") == false
            ? throw new NotSupportedByPeftException("ArchitectureNotSupported", "A DeBERTa whose masked head is not the usual one (legacy: false) is not supported.")
            {
                Target = "legacy",
                RecommendedAction = "Use a DeBERTa with the usual masked head.",
            }
            : new BertMaskedModel(config, name, "Legacy" + config.Family.Stem)),
        new("ForSequenceClassification", "SEQ_CLS", static (config, name) => new DebertaV2SequenceClassificationModel(config, name)),
        .. BertHeads.Tokens(static config => new BertConfig(config).DropoutRate),
        HeadRow.Features,
    ];
}
