using Peft.Adapters.Methods.LoKr;
using Peft.Models.Layers;

namespace Peft.Adapters.Methods.Lycoris;

/// <summary>What a new network has on a layer, as LyCORIS 4.1 makes it.</summary>
internal static class LycorisDesign
{
    /// <summary>What the fields of a configuration ask for.</summary>
    /// <exception cref="PeftException"><c>AdapterConfigContradictory</c>: the layer's sizes can't be divided so.</exception>
    public static LycorisModule Of(IAdaptable layer, LycorisNetworkConfig config)
    {
        if (layer is NormWeight)
        {
            return Shaped(null, layer.Bias is null ? [("w_norm", layer.Weight.Shape)] : [("w_norm", layer.Weight.Shape), ("b_norm", layer.Bias.Shape)]);
        }

        var isSpatial = layer.Kernel.Any(static size => size != 1);
        var rank = isSpatial && config.ConvolutionRank > 0 ? config.ConvolutionRank : config.Rank;
        var alpha = isSpatial && config.ConvolutionAlpha != 0 ? config.ConvolutionAlpha : config.Alpha;
        alpha = alpha == 0 ? rank : alpha;
        alpha *= config.RankStabilized ? Math.Sqrt(rank) : 1;
        var sizes = new LayerSizes(layer, rank, config.UseTucker && isSpatial);
        return config.Algorithm switch
        {
            "loha" => sizes.WithDora(config, Shaped(alpha, LoHa(sizes))),
            "lokr" => sizes.WithDora(config, LoKr(sizes, alpha, config)),
            "ia3" => Shaped(null, [("weight", [config.TrainOnInput ? sizes.In : sizes.Out]), (LycorisModule.InputMark, [])]) with { IsByInput = config.TrainOnInput },
            "full" => Shaped(null, layer.Bias is null ? [("diff", layer.Weight.Shape)] : [("diff", layer.Weight.Shape), ("diff_b", layer.Bias.Shape)]),
            "diag-oft" or "boft" => Rotation(sizes, config),
            "glora" => Shaped(alpha, [("a1.weight", [sizes.In, rank]), ("a2.weight", [rank, sizes.In]), ("b1.weight", [sizes.Out, rank]), ("b2.weight", [rank, sizes.In, .. layer.Kernel])]),
            "tlora" when isSpatial => throw Unfit(layer, "T-LoRA has no change for a convolution of several taps"),
            "tlora" => Shaped(alpha, [("q_layer.weight", [rank, sizes.In]), ("p_layer.weight", [sizes.Out, rank]), ("lambda_layer", [1, rank])]),
            "dylora" => Shaped(alpha * config.BlockSize, LoCon(sizes with { HasCore = false })),
            _ => sizes.WithDora(config, Shaped(alpha, LoCon(sizes))),
        };
    }

    private static List<(string, IReadOnlyList<long>)> LoCon(LayerSizes sizes)
    {
        List<(string, IReadOnlyList<long>)> shapes = [("lora_down.weight", [sizes.Rank, sizes.In, .. sizes.HasCore ? [] : sizes.Kernel]), ("lora_up.weight", [sizes.Out, sizes.Rank])];
        if (sizes.HasCore)
        {
            shapes.Add(("lora_mid.weight", [sizes.Rank, sizes.Rank, .. sizes.Kernel]));
        }

        return shapes;
    }

    private static List<(string, IReadOnlyList<long>)> LoHa(LayerSizes sizes)
    {
        List<(string, IReadOnlyList<long>)> shapes = [];
        foreach (var number in new[] { 1, 2 })
        {
            shapes.Add(($"hada_w{number}_a", sizes.HasCore ? [sizes.Rank, sizes.Out] : [sizes.Out, sizes.Rank]));
            shapes.Add(($"hada_w{number}_b", [sizes.Rank, sizes.HasCore ? sizes.In : sizes.Columns]));
            if (sizes.HasCore)
            {
                shapes.Add(($"hada_t{number}", [sizes.Rank, sizes.Rank, .. sizes.Kernel]));
            }
        }

        return shapes;
    }

    private static LycorisModule LoKr(LayerSizes sizes, double alpha, LycorisNetworkConfig config)
    {
        var (inFirst, inSecond) = Ordered(LoKrShape.Factors(sizes.In, config.Factor));
        var (outFirst, outSecond) = Ordered(LoKrShape.Factors(sizes.Out, config.Factor));
        if (config.UnbalancedFactorization)
        {
            (outFirst, outSecond) = (outSecond, outFirst);
        }

        var rank = sizes.Rank;
        var isFirstLow = config.DecomposeBoth && !config.FullMatrix && rank < Math.Max(outFirst, inFirst) / 2.0;
        var isSecondLow = !config.FullMatrix && rank < Math.Max(outSecond, inSecond) / 2.0;
        List<(string, IReadOnlyList<long>)> shapes = isFirstLow ? [("lokr_w1_a", [outFirst, rank]), ("lokr_w1_b", [rank, inFirst])] : [("lokr_w1", [outFirst, inFirst])];
        shapes.AddRange(!isSecondLow ? [("lokr_w2", [outSecond, inSecond, .. sizes.Kernel])]
            : sizes.HasCore ? [("lokr_t2", [rank, rank, .. sizes.Kernel]), ("lokr_w2_a", [rank, outSecond]), ("lokr_w2_b", [rank, inSecond])]
            : [("lokr_w2_a", [outSecond, rank]), ("lokr_w2_b", [rank, sizes.Kernel.Aggregate(inSecond, static (all, size) => all * size)])]);
        return Shaped(isFirstLow || isSecondLow ? alpha : rank, shapes);
    }

    private static LycorisModule Rotation(LayerSizes sizes, LycorisNetworkConfig config)
    {
        List<(string, IReadOnlyList<long>)> shapes = [("oft_blocks", config.Algorithm == "boft" ? Butterflies(sizes) : Blocks(sizes))];
        if (config.Rescaled)
        {
            shapes.Add(("rescale", [sizes.Out, 1, .. sizes.Kernel.Select(static _ => 1L)]));
        }

        return Shaped(config.Constraint, shapes);
    }

    private static long[] Blocks(LayerSizes sizes)
    {
        var (size, count) = Ordered(LoKrShape.Factors(sizes.Out, sizes.Rank));
        return [count, size, size];
    }

    /// <summary>An even block no larger than the rank that divides the outputs by a power of two, and as many stages as that has halves.</summary>
    private static long[] Butterflies(LayerSizes sizes)
    {
        for (var (size, count) = (sizes.Out, 1L); ; (size, count) = (size / 2, count * 2))
        {
            if (size % 2 != 0 || size == 0)
            {
                throw Unfit(sizes.Layer, FormattableString.Invariant($"BOFT's blocks of {sizes.Out} outputs divided by powers of two are never even and of {sizes.Rank} or fewer"));
            }

            if (size <= sizes.Rank)
            {
                return [System.Numerics.BitOperations.PopCount((ulong)(count - 1)) + 1, count, size, size];
            }
        }
    }

    private static PeftException Unfit(IAdaptable layer, string why) => new("AdapterConfigContradictory", $"'{layer.Path}': {why}.")
    {
        Target = layer.Path,
        RecommendedAction = "Give another rank, or name other layers.",
    };

    private static (long, long) Ordered((long Small, long Large) factors) => factors.Small <= factors.Large ? factors : (factors.Large, factors.Small);

    private static LycorisModule Shaped(double? alpha, IEnumerable<(string Key, IReadOnlyList<long> Shape)> shapes) =>
        new(shapes.ToDictionary(static entry => entry.Key, static entry => entry.Shape)) { Alpha = alpha };

    /// <summary>The sizes that a layer's factors are made of.</summary>
    private sealed record LayerSizes(IAdaptable Layer, int Rank, bool HasCore)
    {
        public long In => Layer.Inputs / Layer.ChannelGroups;

        public long Out => Layer.Outputs;

        public long Columns => Layer.Columns;

        public IReadOnlyList<long> Kernel => Layer.Kernel;

        public LycorisModule WithDora(LycorisNetworkConfig config, LycorisModule module) => !config.UseDora ? module : module with
        {
            Shapes = new Dictionary<string, IReadOnlyList<long>>(module.Shapes) { ["dora_scale"] = config.DoraOnOutput ? [Out, 1, .. Kernel.Select(static _ => 1L)] : [1, In, .. Kernel.Select(static _ => 1L)] },
        };
    }
}
