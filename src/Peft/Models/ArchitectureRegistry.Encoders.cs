using Peft.Models.Architectures;

namespace Peft.Models;

/// <content>Encoders, and encoders with a decoder.</content>
public static partial class ArchitectureRegistry
{
    private static IReadOnlyList<Family> Encoders =>
    [
        new("t5", "T5", static config => new T5Model(config))
        {
            Prefix = "",
            Heads = T5Heads.With(T5Config.IsFirstRelease),
            Defaults = Tied("""{ "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0 }"""),
        },
        new("mt5", "MT5", static config => new T5Model(config))
        {
            Prefix = "",
            Heads = T5Heads.With(static _ => false),
            Defaults = Tied("""
                { "vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu", "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0 }
                """),
        },
        new("bert", "Bert", static config => new BertModel(config))
        {
            Prefix = "bert",
            Heads = BertHeads.Bert,
            Keys = new KeyMap(new KeyRule("LayerNorm.weight", "LayerNorm.gamma"), new KeyRule("LayerNorm.bias", "LayerNorm.beta")),
            Defaults = Tied("""{ "pad_token_id": 0 }"""),
        },
        new("roberta", "Roberta", static config => new BertModel(config, new BertTraits(PositionsFollowPadding: true)))
        {
            Prefix = "roberta",
            Heads = BertHeads.Roberta,
            Defaults = Tied("""{ "vocab_size": 50265, "pad_token_id": 1 }"""),
        },
        new("xlm-roberta", "XLMRoberta", static config => new BertModel(config, new BertTraits(PositionsFollowPadding: true)))
        {
            Prefix = "roberta",
            ListsBackboneLast = true,
            Heads = BertHeads.Roberta,
            Defaults = Tied("""{ "pad_token_id": 1 }"""),
        },
        new("electra", "Electra", static config => new BertModel(config, new BertTraits(HasEmbeddingSize: true)))
        {
            Prefix = "electra",
            Heads = BertHeads.Electra,
            Defaults = Tied("""{ "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "pad_token_id": 0 }"""),
        },
        new("distilbert", "DistilBert", static config => new DistilBertModel(config))
        {
            Prefix = "distilbert",
            Heads = DistilBertHeads.All,
            Defaults = Tied("""{ "pad_token_id": 0 }"""),
        },
        new("bart", "Bart", static config => new BartModel(config))
        {
            Heads = BartHeads.All,
            Defaults = Tied("""{ "num_labels": 3, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2 }"""),
        },
        new("deberta-v2", "DebertaV2", static config => new DebertaV2Model(config))
        {
            Prefix = "deberta",
            Heads = DebertaV2Heads.All,
            Defaults = Tied("""
                {
                    "vocab_size": 128100, "hidden_size": 1536, "num_hidden_layers": 24, "num_attention_heads": 24, "intermediate_size": 6144,
                    "layer_norm_eps": 1e-7, "pad_token_id": 0
                }
                """),
        },
        ClipText.Row,
        ClipVision.Row,
        ClipVision.Whole,
        Vit.Row,
        new("modernbert", "ModernBert", static config => new ModernBertModel(config))
        {
            Heads = ModernBertHeads.All,
            Defaults = Tied("""{ "pad_token_id": 50283 }"""),
        },
    ];
}
