using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Peft.Engine.Cuda;

/// <summary>The structs that kernels take, each laid out as its namesake in <c>Kernels/*.cu</c>: addresses and sizes, which are explained there.</summary>
internal static class KernelArguments
{
    /// <summary>Low-rank changes that one launch takes.</summary>
    public const int MostTerms = 8;

    /// <summary>The largest head that attention has room for.</summary>
    public const int MostHeadSize = 256;

    [StructLayout(LayoutKind.Sequential)]
    public struct ProductTarget
    {
        public nint Y;
        public nint Bias;
        public nint Residual;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct RowProduct
    {
        public nint X;
        public nint Weight;
        public ProductTarget Target;
        public long Rows;
        public long Width;
        public int Lanes;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct ColumnProduct
    {
        public nint X;
        public nint Weight;
        public ProductTarget Target;
        public long Height;
        public long Columns;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct LowRankTerm
    {
        public nint B;
        public long Column;
        public long Width;
        public long RankStart;
        public long Rank;
        public float Scale;
    }

    [InlineArray(MostTerms)]
    public struct LowRankTerms
    {
        private LowRankTerm _first;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct LowRank
    {
        public nint Inner;
        public nint Y;
        public long Columns;
        public int Count;
        public LowRankTerms Terms;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct FourBitBlocks
    {
        public nint Packed;
        public nint Scales;
        public nint NestedScales;
        public nint ScaleValues;
        public nint Values;
        public float Offset;
        public int Shift;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct FourBitProduct
    {
        public nint X;
        public FourBitBlocks Blocks;
        public ProductTarget Target;
        public long Rows;
        public long Width;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct FourBitUnpack
    {
        public FourBitBlocks Blocks;
        public nint Target;
        public long Count;
        public int Stored;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct Norm
    {
        public nint X;
        public nint Weight;
        public nint Y;
        public nint Inverse;
        public int Width;
        public float Epsilon;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct LayerNorm
    {
        public nint X;
        public nint Weight;
        public nint Bias;
        public nint Y;
        public int Width;
        public float Epsilon;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct ScaledSum
    {
        public nint Left;
        public nint Right;
        public nint Y;
        public long Count;
        public float Scale;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct Activation
    {
        public nint X;
        public nint Y;
        public long Width;
        public int Form;
        public int IsGated;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct Copy
    {
        public nint Stretches;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct Rotation
    {
        public nint Cosine;
        public nint Sine;
        public int Size;
        public int IsInterleaved;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct Rotate
    {
        public nint Queries;
        public nint Keys;
        public nint Values;
        public nint Turned;
        public nint StoredKeys;
        public nint StoredValues;
        public Rotation Rotation;
        public long Capacity;
        public long Position;
        public int Heads;
        public int KeySize;
        public int ValueSize;
        public float Scale;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct Attend
    {
        public nint Queries;
        public nint Keys;
        public nint Values;
        public nint Output;
        public nint Bias;
        public nint Mask;
        public long Capacity;
        public long BiasKeys;
        public int First;
        public int Count;
        public int Masked;
        public int Group;
        public int KeySize;
        public int ValueSize;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct NormGradient
    {
        public nint Gradient;
        public nint X;
        public nint Weight;
        public nint Inverse;
        public nint Result;
        public int Width;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct Turn
    {
        public nint X;
        public nint Y;
        public nint Cosine;
        public nint Sine;
        public long Length;
        public long RowStride;
        public long PositionStride;
        public long Tables;
        public int Heads;
        public int Size;
        public int Turned;
        public int IsInterleaved;
        public int Back;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct Gated
    {
        public nint Projections;
        public nint Other;
        public long Rows;
        public long Width;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct CrossEntropy
    {
        public nint Logits;
        public nint Targets;
        public nint Losses;
        public long Width;
        public float Scale;
        public float Smoothing;
        public int WantsGradient;
    }
}
