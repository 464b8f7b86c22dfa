using TorchSharp.Modules;

using static TorchSharp.torch;

namespace TorchSharp
{
    /// <summary>Conversions from and to tensors.</summary>
    public static class TensorExtensionMethods
    {
        /// <summary>The bytes of one element.</summary>
        public static int ElementSize(this ScalarType type) => type switch
        {
            ScalarType.Byte or ScalarType.Int8 or ScalarType.Bool or ScalarType.QInt8 or ScalarType.QUInt8 => 1,
            ScalarType.Int16 or ScalarType.Float16 or ScalarType.BFloat16 => 2,
            ScalarType.Int32 or ScalarType.Float32 or ScalarType.QInt32 => 4,
            ScalarType.Int64 or ScalarType.Float64 or ScalarType.ComplexFloat32 => 8,
            ScalarType.ComplexFloat64 => 16,
            _ => throw new NotSupportedException($"The element type {type} has no size here."),
        };

        public static long TotalSize(this IEnumerable<long> shape) => shape.Aggregate(1L, (product, size) => product * size);

        public static Parameter AsParameter(this Tensor tensor) => new(tensor);

        public static float ToSingle(this Tensor value) => value.ToScalar().ToSingle();

        public static double ToDouble(this Tensor value) => value.ToScalar().ToDouble();

        public static Half ToHalf(this Tensor value) => value.ToScalar().ToHalf();

        public static BFloat16 ToBFloat16(this Tensor value) => value.ToScalar().ToBFloat16();

        public static sbyte ToSByte(this Tensor value) => value.ToScalar().ToSByte();

        public static byte ToByte(this Tensor value) => value.ToScalar().ToByte();

        public static short ToInt16(this Tensor value) => value.ToScalar().ToInt16();

        public static int ToInt32(this Tensor value) => value.ToScalar().ToInt32();

        public static long ToInt64(this Tensor value) => value.ToScalar().ToInt64();

        public static bool ToBoolean(this Tensor value) => value.ToScalar().ToBoolean();
    }
}

namespace TorchSharp.Modules
{
    /// <summary>A tensor that is trained.</summary>
    public class Parameter : Tensor
    {
        public Parameter(Tensor data, bool requires_grad = true)
            : base(Aten.detach.Tensor(data).Release()) => this.requires_grad = requires_grad;
    }

    /// <summary>The names of GELU's two formulas; the module itself isn't here.</summary>
    public sealed class GELU
    {
        private GELU()
        {
        }

        public enum Approximate
        {
            none,
            tanh,
        }
    }
}
