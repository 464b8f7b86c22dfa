using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>Llama with a head that classifies a row by its last token.</summary>
internal sealed class LlamaForSequenceClassification : SequenceClassificationModel
{
    private readonly LlamaModel model;

    public LlamaForSequenceClassification(ModelConfig source)
        : base(source)
    {
        var config = new LlamaConfig(source);
        model = Add("model", new LlamaModel(config));
        Score = Add("score", new Linear(config.HiddenSize, LabelCount));
    }

    public override string InputEmbeddings => "model.embed_tokens";

    public override string? ClassificationHead => "score";

    protected override Linear Score { get; }

    public override void AfterLoad() => model.Fuse();

    protected override Tensor Hidden(Tensor ids, ForwardContext context) => model.Forward(model.Embedding.Forward(ids, context), context);
}
