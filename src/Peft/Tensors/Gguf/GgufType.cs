using static TorchSharp.torch;

namespace Peft.Tensors.Gguf;

/// <summary>Turns one block of stored bytes into values.</summary>
/// <param name="block">The block's bytes.</param>
/// <param name="values">Where its values go.</param>
internal delegate void GgufBlockReader(ReadOnlySpan<byte> block, Span<float> values);

/// <summary>Turns values into one block of stored bytes.</summary>
/// <param name="values">A block's values.</param>
/// <param name="block">Where its bytes go.</param>
internal delegate void GgufBlockWriter(ReadOnlySpan<float> values, Span<byte> block);

/// <summary>Turns values into one block of stored bytes, some of which matter more than others.</summary>
/// <param name="values">A block's values.</param>
/// <param name="importance">By how much an error of each counts; empty where nothing is known of it.</param>
/// <param name="block">Where its bytes go.</param>
internal delegate void GgufWeightedWriter(ReadOnlySpan<float> values, ReadOnlySpan<float> importance, Span<byte> block);

/// <summary>A tensor type of GGUF files.</summary>
/// <param name="Name">The format's name, such as <c>Q4_1</c>.</param>
/// <param name="BlockValues">Values a block; 1 for the plain types.</param>
/// <param name="BlockBytes">Bytes a block.</param>
/// <param name="ScalarType">The type a tensor read from it has.</param>
/// <param name="Reader">Dequantises a block; null for the plain types.</param>
internal sealed record GgufType(string Name, int BlockValues, int BlockBytes, ScalarType ScalarType, GgufBlockReader? Reader = null)
{
    private const int Super = 256;

    private static readonly Dictionary<uint, GgufType> s_all = new()
    {
        [0] = new("F32", 1, 4, ScalarType.Float32),
        [1] = new("F16", 1, 2, ScalarType.Float16),
        [2] = Quantised("Q4_0", 32, 18, GgufBlocks.Q4_0, GgufQuantizers.Q4_0),
        [3] = Quantised("Q4_1", 32, 20, GgufBlocks.Q4_1, GgufQuantizers.Q4_1),
        [6] = Quantised("Q5_0", 32, 22, GgufBlocks.Q5_0, GgufQuantizers.Q5_0),
        [7] = Quantised("Q5_1", 32, 24, GgufBlocks.Q5_1, GgufQuantizers.Q5_1),
        [8] = Quantised("Q8_0", 32, 34, GgufBlocks.Q8_0, GgufQuantizers.Q8_0),
        [10] = Quantised("Q2_K", Super, 84, GgufBlocks.Q2_K),
        [11] = Quantised("Q3_K", Super, 110, GgufBlocks.Q3_K),
        [12] = Weighted("Q4_K", Super, 144, GgufBlocks.Q4_K, GgufQuantizers.Q4_K),
        [13] = Weighted("Q5_K", Super, 176, GgufBlocks.Q5_K, GgufQuantizers.Q5_K),
        [14] = Weighted("Q6_K", Super, 210, GgufBlocks.Q6_K, GgufQuantizers.Q6_K),
        [16] = Quantised("IQ2_XXS", Super, 66, GgufGridBlocks.IQ2_XXS),
        [17] = Quantised("IQ2_XS", Super, 74, GgufGridBlocks.IQ2_XS),
        [18] = Quantised("IQ3_XXS", Super, 98, GgufGridBlocks.IQ3_XXS),
        [19] = Quantised("IQ1_S", Super, 50, GgufGridBlocks.IQ1_S),
        [20] = Quantised("IQ4_NL", 32, 18, GgufBlocks.IQ4_NL),
        [21] = Quantised("IQ3_S", Super, 110, GgufGridBlocks.IQ3_S),
        [22] = Quantised("IQ2_S", Super, 82, GgufGridBlocks.IQ2_S),
        [23] = Quantised("IQ4_XS", Super, 136, GgufBlocks.IQ4_XS),
        [24] = new("I8", 1, 1, ScalarType.Int8),
        [25] = new("I16", 1, 2, ScalarType.Int16),
        [26] = new("I32", 1, 4, ScalarType.Int32),
        [27] = new("I64", 1, 8, ScalarType.Int64),
        [28] = new("F64", 1, 8, ScalarType.Float64),
        [29] = Quantised("IQ1_M", Super, 56, GgufGridBlocks.IQ1_M),
        [30] = new("BF16", 1, 2, ScalarType.BFloat16),
        [34] = Quantised("TQ1_0", Super, 54, GgufBlocks.TQ1_0),
        [35] = Quantised("TQ2_0", Super, 66, GgufBlocks.TQ2_0),
        [39] = Quantised("MXFP4", 32, 17, GgufBlocks.MXFP4),
    };

    /// <summary>Quantises a block; null for the plain types, and for those that are read alone.</summary>
    public GgufBlockWriter? Writer { get; private init; }

    /// <summary>Quantises a block by the importance of its values; null for the types that don't know any.</summary>
    public GgufWeightedWriter? WeightedWriter { get; private init; }

    /// <summary>Its number in a tensor's description.</summary>
    public uint Number => s_all.First(entry => entry.Value == this).Key;

    /// <summary>The type of a name.</summary>
    public static GgufType Named(string name) => s_all.Values.First(type => type.Name == name);

    /// <summary>Looks a type up by its number in a tensor's description.</summary>
    /// <param name="number">The number.</param>
    /// <returns>The type, or null for one that Peft doesn't read.</returns>
    public static GgufType? Find(uint number) => s_all.GetValueOrDefault(number);

    private static GgufType Weighted(string name, int blockValues, int blockBytes, GgufBlockReader reader, GgufWeightedWriter writer) =>
        Quantised(name, blockValues, blockBytes, reader, (values, block) => writer(values, [], block)) with { WeightedWriter = writer };

    private static GgufType Quantised(string name, int blockValues, int blockBytes, GgufBlockReader reader, GgufBlockWriter? writer = null) =>
        new(name, blockValues, blockBytes, ScalarType.Float32, reader) { Writer = writer };
}
