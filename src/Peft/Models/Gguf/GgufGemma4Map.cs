using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Models.Architectures;
using Peft.Tensors.Gguf;
using static Peft.Models.Gguf.GgufHybridMaps;
using static Peft.Models.Gguf.GgufMaps;

namespace Peft.Models.Gguf;

/// <summary>The row of Gemma 4, whose layers differ in the width of heads, of the MLP, and in whether they have keys of their own.</summary>
internal static class GgufGemma4Map
{
    public static GgufMap Map { get; } = new("gemma4")
    {
        Keys =
        [
            .. Sizes().SkipLast(1),
            new("num_attention_heads", "attention.head_count") { IsRequired = true },
            new("rms_norm_eps", Rms, GgufKind.Number) { Otherwise = static (_, _) => 1e-6, IsRequired = true },
            new("num_kv_shared_layers", "attention.shared_kv_layers") { Otherwise = static (_, _) => 0 },
            new("hidden_size_per_layer_input", "embedding_length_per_layer_input") { Otherwise = static (_, _) => 256 },

            // llama.cpp caps at 30 where a file doesn't say.
            new("final_logit_softcapping", "final_logit_softcapping", GgufKind.Number) { Otherwise = static (_, _) => 0 },
        ],
        Fixed = [new("hidden_activation", "gelu_pytorch_tanh"), new("attention_bias", false)],
        Window = new(6) { ListsLayers = true, LastSeesAll = true },
        Rotary = new() { LocalBase = ("rope_local_base_freq", 10000), NeedsFactors = true },
        Further = static (_, config) => Gemma4Metadata(config),
        Complete = CompleteGemma4,
        Unused = static (name, config) => GgufName.Layer(name) is { } layer && new Gemma4Config(config).KeySource(layer) != layer
            && (name.Contains(".attn_k", StringComparison.Ordinal) || name.Contains(".attn_v", StringComparison.Ordinal)),
        Whole =
        [
            new("embed_tokens", "token_embd"),
            new("norm", "output_norm"),
            new("embed_tokens_per_layer", "per_layer_token_embd") { HasAdapters = false },
            new("per_layer_model_projection", "per_layer_model_proj") { HasAdapters = false },
            new("per_layer_projection_norm", "per_layer_proj_norm"),
        ],
        InLayer =
        [
            .. WithoutOutputBias(s_llama),
            .. s_headNorms,
            .. s_gemmaNorms,
            new("per_layer_input_gate", "inp_gate"),
            new("per_layer_projection", "proj"),
            new("post_per_layer_input_norm", "post_norm"),
            new("layer_scalar", "layer_output_scale.weight"),
            new("post_feedforward_layernorm_1", "post_ffw_norm_1"),
            new("post_feedforward_layernorm_2", "post_ffw_norm_2"),
            new("pre_feedforward_layernorm_2", "pre_ffw_norm_2"),
            new("router.scale", "ffn_gate_inp.scale"),
            new("router.proj", "ffn_gate_inp"),
            new("router.per_expert_scale", "ffn_down_exps.scale"),
            new("experts.gate_up_proj", "ffn_gate_up_exps.weight"),

            // What an adapter adds there isn't scaled by expert.
            new("experts.down_proj", "ffn_down_exps.weight") { HasAdapters = false },
        ],
    };

    private static IEnumerable<(string Key, object Value)> Gemma4Metadata(ModelConfig source)
    {
        var config = new Gemma4Config(source);
        var layers = Enumerable.Range(0, config.Layers).ToArray();
        var (sliding, full) = (HeadSize(isSliding: true), HeadSize(isSliding: false));
        if (config.PerLayerSize > 0 && source.Size("vocab_size_per_layer_input", 262_144) != config.VocabularySize)
        {
            throw Refused("vocab_size_per_layer_input", "llama.cpp has one vocabulary for the embeddings of all layers in 'gemma4' (vocab_size, vocab_size_per_layer_input).");
        }

        // It ends the process where there are no such keys.
        var own = Array.FindIndex(layers, layer => config.KeySource(layer) != layer);
        if (Array.Exists(layers, layer => config.KeySource(layer) != layer && config.KeySource(layer) != own - (config.IsSliding(layer) ? 2 : 1)))
        {
            throw Refused("num_kv_shared_layers", "llama.cpp takes the keys of layers that share others' from the last two layers with keys of their own in 'gemma4', one with a window before one without; this model's layers stand otherwise.");
        }

        foreach (var key in (string[])["key_length", "value_length"])
        {
            yield return ($"attention.{key}", (uint)full);
            yield return ($"attention.{key}_swa", (uint)sliding);
        }

        yield return ("rope.dimension_count_swa", (uint)sliding);
        yield return ("attention.head_count_kv", layers.Select(layer => (uint)config.Attention(layer).KeyValueHeads).ToArray());
        yield return ("feed_forward_length", layers.Select(layer => (uint)config.InnerSize(layer)).ToArray());
        if (config.HasExperts)
        {
            yield return ("expert_count", (uint)config.Experts);
            yield return ("expert_used_count", (uint)config.ChosenExperts);
            yield return ("expert_feed_forward_length", (uint)config.ExpertSize);
        }

        long HeadSize(bool isSliding) => layers.Where(layer => config.IsSliding(layer) == isSliding).Select(layer => config.Attention(layer).HeadSize).Distinct().ToArray() switch
        {
            [] => source.Size(isSliding ? "head_dim" : "global_head_dim", 256),
            [var size] => size,
            _ => throw Refused("per_layer_config", "llama.cpp has heads of one width in all layers with a window of 'gemma4', and of one in all others."),
        };
    }

    private static void CompleteGemma4(JsonObject config, GgufFile file, GgufMap map)
    {
        var metadata = file.Metadata;
        var kinds = (config["layer_types"] as JsonArray)!;
        var full = kinds.Select(static (kind, layer) => (Slides: (string)kind! == "sliding_attention", Layer: layer)).ToLookup(static entry => entry.Slides, static entry => entry.Layer);
        var (heads, inner) = (WholeNumbers(metadata, map.Key("attention.head_count_kv")), WholeNumbers(metadata, map.Key("feed_forward_length")));
        config["global_head_dim"] = metadata.GetInteger(map.Key("attention.key_length"));
        config["head_dim"] = metadata.GetInteger(map.Key("attention.key_length_swa"), metadata.GetInteger(map.Key("attention.key_length")));
        config["num_key_value_heads"] = Shared(true);
        config["num_global_key_value_heads"] = Shared(false);
        config["attention_k_eq_v"] = full[false].Any(layer => file.Contains(Named(layer, "attn_k.weight")) && !file.Contains(Named(layer, "attn_v.weight")));
        config["intermediate_size"] = inner.Count > 0 ? inner.Min() : metadata.GetInteger(map.Key("feed_forward_length"));
        config["use_double_wide_mlp"] = inner.Count > 0 && inner.Max() != inner.Min();
        config["enable_moe_block"] = file.Contains("blk.0.ffn_gate_inp.weight");
        NoCap(config);
        config["vocab_size_per_layer_input"] = config["vocab_size"]!.DeepClone();
        if (metadata.GetInteger(map.Key("expert_count"), 0) is > 0 and var experts)
        {
            config["num_experts"] = experts;
            config["top_k_experts"] = metadata.GetInteger(map.Key("expert_used_count"));
            config["moe_intermediate_size"] = metadata.GetInteger(map.Key("expert_feed_forward_length"));
        }

        // What older releases look for, and they know no such model.
        foreach (var key in (string[])["rope_theta", "rope_scaling", "rope_local_base_freq"])
        {
            config.Remove(key);
        }

        long Shared(bool slides) => heads.Count == 0 ? metadata.GetInteger(map.Key("attention.head_count_kv"), (long)config["num_attention_heads"]!)
            : full[slides].Select(layer => heads.ElementAtOrDefault(layer)).DefaultIfEmpty(heads[0]).Max();

        static string Named(int layer, string name) => string.Create(CultureInfo.InvariantCulture, $"blk.{layer}.{name}");
    }
}
