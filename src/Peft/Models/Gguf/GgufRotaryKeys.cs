using System.Text.Json.Nodes;
using Peft.Tensors.Gguf;
using static TorchSharp.torch;

namespace Peft.Models.Gguf;

/// <summary>Rotary positions as files state them: metadata, and factors of frequencies as tensors.</summary>
internal static class GgufRotaryKeys
{
    /// <summary>What each inverse frequency of the rotary positions is divided by; every Llama 3 file has it, for its scaling is nowhere else.</summary>
    private const string Factors = "rope_freqs.weight";
    private const string LongFactors = "rope_factors_long.weight";
    private const string ShortFactors = "rope_factors_short.weight";
    private const string AttentionKey = "rope.scaling.attn_factor";
    private const string OriginalKey = "rope.scaling.original_context_length";
    private const string LocalBaseKey = "rope.freq_base_swa";
    private const string DivisorKey = "rope.scaling.yarn_log_multiplier";

    // What doesn't turn is slowed down beyond any length.
    private const float Still = 1e30f;

    /// <summary>Where llama.cpp reads factors of long and short texts; in other architectures it ends at their tensors.</summary>
    private static readonly string[] s_withLongFactors = ["llama", "granite", "phi3"];

    /// <summary>Where it reads factors of a model's own, which Llama 3's scaling is written as; it ends at them elsewhere too.</summary>
    private static readonly string[] s_withFactors = ["llama", "granite", "mistral3"];

    private static readonly (string Tree, string File)[] s_yarn = [("beta_fast", "rope.scaling.yarn_beta_fast"), ("beta_slow", "rope.scaling.yarn_beta_slow")];

    /// <summary>Names of tensors that are no parameters.</summary>
    public static bool Owns(string name) => name is Factors or LongFactors or ShortFactors;

    /// <summary>Which scaling a configuration names, of the layers that see everything.</summary>
    public static string Kind(ModelConfig config) => Parameters(config) is { } rope ? rope.String("rope_type") ?? rope.String("type") ?? "default" : "default";

    /// <summary>What a configuration says of the positions of layers that see everything.</summary>
    public static ModelConfig? Parameters(ModelConfig config) => (config.Node("rope_parameters") ?? config.Node("rope_scaling")) is not JsonObject rope ? null
        : new ModelConfig(rope["full_attention"] as JsonObject ?? rope);

    /// <summary>How many elements of a head turn.</summary>
    public static long Turning(GgufMap map, ModelConfig config, long headSize) => map.Rotary switch
    {
        { SizeKey: { } key } => config.RequiredInteger(key),
        { Share: { } share } => (long)(headSize * (Parameters(config)?.Number("partial_rotary_factor") ?? config.Number("partial_rotary_factor") ?? share)),
        _ => headSize,
    };

    /// <summary>The metadata of a configuration.</summary>
    /// <exception cref="NotSupportedByPeftException"><c>GgufRotaryNotSupported</c> or <c>GgufSettingNotSupported</c>.</exception>
    public static IEnumerable<(string Key, object Value)> Metadata(GgufMap map, ModelConfig config, long headSize)
    {
        if (map.Rotary is not { } rotary)
        {
            yield break;
        }

        var rope = Parameters(config) ?? new ModelConfig([]);
        var turning = Turning(map, config, headSize);
        if (turning % 2 != 0)
        {
            throw GgufMaps.Refused("partial_rotary_factor", FormattableString.Invariant($"Of each head {turning} elements turn (partial_rotary_factor); llama.cpp ends the process where they make up no pairs."));
        }

        yield return (map.Key("rope.dimension_count"), (uint)turning);
        yield return (map.Key("rope.freq_base"), (float)Base(config));
        if (rotary.LocalBase is { } local)
        {
            var theta = LocalBase(config, local);
            if (rotary.StatesLocalBase)
            {
                yield return (map.Key(LocalBaseKey), (float)theta);
            }
            else if (theta != Base(config))
            {
                throw GgufMaps.Refused("rope_theta", FormattableString.Invariant($"llama.cpp has one base of rotary positions in '{map.Architecture}'; here it is {theta:R} where layers have a window, and {Base(config):R} elsewhere (rope_theta)."));
            }
        }

        var kind = Kind(config);
        switch (kind)
        {
            case "default":
            case "llama3" when s_withFactors.Contains(map.Architecture):
            case "proportional" when rotary.NeedsFactors:
                yield break;

            // Of latent attention it takes every scaling for YaRN's.
            case "linear" or "yarn" when !rotary.NeedsFactors && (kind == "yarn" || rotary.SizeKey is null):
                yield return (map.Key("rope.scaling.type"), kind);
                yield return (map.Key("rope.scaling.factor"), (float)(rope.Number("factor") ?? 1));
                break;
            case "longrope" or "su" when s_withLongFactors.Contains(map.Architecture):
                yield return (map.Key("rope.scaling.type"), "longrope");
                yield return (map.Key(AttentionKey), (float)new Layers.RotaryFrequencies(config, headSize, map.Rotary.Share).Scale);
                break;
            default:
                throw new NotSupportedByPeftException("GgufRotaryNotSupported", $"Rotary scaling '{kind}' is not written as GGUF of '{map.Architecture}'.")
                {
                    Target = kind,
                    RecommendedAction = "Supported are: default, linear, yarn, llama3 of llama, granite and mistral3, longrope of llama, granite and phi3, and proportional of gemma4. Export the model as safetensors.",
                };
        }

        if ((rope.Integer("original_max_position_embeddings") ?? config.Integer("original_max_position_embeddings")) is { } original)
        {
            yield return (map.Key(OriginalKey), (uint)original);
        }

        foreach (var entry in kind == "yarn" ? YarnMetadata(rotary, rope, config, headSize) : [])
        {
            yield return (map.Key(entry.Key), entry.Value);
        }
    }

    private static IEnumerable<(string Key, float Value)> YarnMetadata(GgufRotary rotary, ModelConfig rope, ModelConfig config, long headSize)
    {
        var usual = YarnAttention(rope.Number("factor") ?? 1);
        if (rope.Number("attention_factor") is { } attention)
        {
            yield return (AttentionKey, (float)(attention / usual));
        }
        else if (rotary.SizeKey is null && rope.Number("mscale") is { } scale and not 0 && rope.Number("mscale_all_dim") is { } all and not 0)
        {
            yield return scale == 1 && rotary.StatesDivisor
                ? (DivisorKey, (float)all)
                : (AttentionKey, (float)(new Layers.RotaryFrequencies(config, headSize, rotary.Share).Scale / usual));
        }

        foreach (var key in s_yarn)
        {
            if (rope.Number(key.Tree) is { } number)
            {
                yield return (key.File, (float)number);
            }
        }
    }

    /// <summary>Factors of frequencies that metadata can't state.</summary>
    public static IEnumerable<GgufOutput> Tensors(GgufMap map, ModelConfig config, long headSize)
    {
        if (map.Rotary is null || Parameters(config) is not { } rope)
        {
            return [];
        }

        return Kind(config) switch
        {
            "llama3" => [Output(Factors, Llama3(rope, Base(config), headSize))],
            "longrope" or "su" => [Output(LongFactors, Numbers(rope, "long_factor")), Output(ShortFactors, Numbers(rope, "short_factor"))],

            "proportional" => [Output(Factors, [.. Enumerable.Range(0, (int)(headSize / 2)).Select(i => i < (int)(headSize * (rope.Number("partial_rotary_factor") ?? 1) / 2) ? (float)(rope.Number("factor") ?? 1) : Still)])],
            _ => map.Rotary.NeedsFactors ? [Output(Factors, [.. Enumerable.Repeat(1f, (int)(headSize / 2))])] : [],
        };

        static GgufOutput Output(string name, float[] values) => new(name, [values.Length], GgufType.Named("F32"), () => tensor(values));

        static float[] Numbers(ModelConfig rope, string key) => [.. (rope.Numbers(key) ?? throw new PeftException("ModelConfigIncomplete", $"The rotary scaling has no '{key}'.")).Select(static number => (float)number)];
    }

    /// <summary>Puts what a file says into a configuration.</summary>
    public static void Read(JsonObject config, GgufFile file, GgufMap map, long headSize)
    {
        if (map.Rotary is not { } rotary)
        {
            return;
        }

        var rope = Parameters(file, map);
        if (rotary.Share is not null)
        {
            rope["partial_rotary_factor"] = file.Metadata.GetInteger(map.Key("rope.dimension_count"), headSize) / (double)headSize;
        }

        if (rotary.LocalBase is { } local)
        {
            var theta = rotary.StatesLocalBase ? file.Metadata.GetNumber(map.Key(LocalBaseKey), local.Otherwise) : (double)rope["rope_theta"]!;
            if (rotary.StatesLocalBase)
            {
                config[local.Key] = theta;
            }

            config["rope_parameters"] = new JsonObject
            {
                ["full_attention"] = rope,
                ["sliding_attention"] = new JsonObject { ["rope_type"] = "default", ["rope_theta"] = theta },
            };
        }
        else
        {
            config["rope_parameters"] = rope;
        }

        // What reads the files of older releases looks for these two.
        config["rope_theta"] = rope["rope_theta"]!.DeepClone();
        config["rope_scaling"] = (string)rope["rope_type"]! == "default" ? null : rope.DeepClone();
    }

    private static JsonObject Parameters(GgufFile file, GgufMap map)
    {
        var metadata = file.Metadata;
        var rope = new JsonObject { ["rope_theta"] = metadata.GetNumber(map.Key("rope.freq_base"), 10000), ["rope_type"] = "default" };
        var scaling = metadata.GetText(map.Key("rope.scaling.type"));
        if (scaling is not (null or "none"))
        {
            rope["rope_type"] = scaling;
            rope["factor"] = metadata.GetNumber(map.Key("rope.scaling.factor"), 1);
            if (scaling == "yarn" && metadata.ContainsKey(map.Key(AttentionKey)))
            {
                rope["attention_factor"] = metadata.GetNumber(map.Key(AttentionKey)) * YarnAttention((double)rope["factor"]!);
            }

            foreach (var (tree, name) in s_yarn.Where(key => metadata.ContainsKey(map.Key(key.File))))
            {
                rope[tree] = metadata.GetNumber(map.Key(name));
            }
        }

        if (map.Rotary!.StatesDivisor && metadata.ContainsKey(map.Key(DivisorKey)))
        {
            rope["mscale"] = 1.0;
            rope["mscale_all_dim"] = metadata.GetNumber(map.Key(DivisorKey));
        }

        var factors = ReadFactors(file, Factors);
        if (file.Contains(LongFactors) && file.Contains(ShortFactors))
        {
            rope["rope_type"] = "longrope";
            rope["long_factor"] = List(ReadFactors(file, LongFactors));
            rope["short_factor"] = List(ReadFactors(file, ShortFactors));
            rope["attention_factor"] = metadata.GetNumber(map.Key(AttentionKey), 1);
        }
        else if (factors.Length > 0 && factors[0] < Still && Array.IndexOf(factors, Still) is > 0 and var turning && factors.Select((factor, i) => factor == (i < turning ? factors[0] : Still)).All(static same => same))
        {
            rope["rope_type"] = "proportional";
            rope["partial_rotary_factor"] = turning / (double)factors.Length;
            rope["factor"] = (double)factors[0];
        }
        else if (factors.Any(static factor => factor != 1))
        {
            // The one scaling of transformers that names a factor for each frequency; with equal lists it is the same at every length.
            rope["rope_type"] = "longrope";
            rope["long_factor"] = List(factors);
            rope["short_factor"] = List(factors);
            rope["attention_factor"] = 1.0;
            rope["factor"] = 1.0;
            rope["original_max_position_embeddings"] = metadata.GetInteger(map.Key("context_length"));
        }

        if (metadata.ContainsKey(map.Key(OriginalKey)))
        {
            rope["original_max_position_embeddings"] = metadata.GetInteger(map.Key(OriginalKey));
        }

        return rope;
    }

    private static double Base(ModelConfig config) => Parameters(config)?.Number("rope_theta") ?? config.Number("rope_theta") ?? 10000;

    private static double LocalBase(ModelConfig config, (string Key, double Otherwise) local) =>
        (config.Node("rope_parameters") as JsonObject)?["sliding_attention"] is JsonObject own ? new ModelConfig(own).Number("rope_theta") ?? local.Otherwise
        : config.Number(local.Key) ?? local.Otherwise;

    /// <summary>By how much YaRN scales attention where nobody says: files state what multiplies it.</summary>
    private static double YarnAttention(double factor) => factor <= 1 ? 1 : (0.1 * Math.Log(factor)) + 1;

    /// <summary>By how much each frequency is slowed down with Llama 3's scaling.</summary>
    private static float[] Llama3(ModelConfig rope, double theta, long size)
    {
        double factor = rope.Number("factor") ?? 8, low = rope.Number("low_freq_factor") ?? 1, high = rope.Number("high_freq_factor") ?? 4;
        var original = rope.Number("original_max_position_embeddings") ?? 8192;
        return [.. Enumerable.Range(0, (int)(size / 2)).Select(i =>
        {
            var turns = original * Math.Pow(theta, -2.0 * i / size) / (2 * Math.PI);
            var share = Math.Clamp((turns - low) / (high - low), 0, 1);
            return (float)(1 / (((1 - share) / factor) + share));
        })];
    }

    private static float[] ReadFactors(GgufFile file, string name)
    {
        if (!file.Contains(name))
        {
            return [];
        }

        using var stored = file.Read(name, ScalarType.Float32);
        return stored.data<float>().ToArray();
    }

    private static JsonArray List(float[] values) => new([.. values.Select(static value => JsonValue.Create((double)value))]);
}
