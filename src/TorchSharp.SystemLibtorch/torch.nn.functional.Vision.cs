using static TorchSharp.torch.Tensor;

namespace TorchSharp;

public static partial class torch
{
    public static partial class nn
    {
        // Convolution, pooling, padding and resizing.
        public static partial class functional
        {
            public static Tensor conv1d(
                Tensor input, Tensor weight, Tensor? bias = null, long? stride = null, long? padding = null, long? dilation = null, long groups = 1) =>
                Aten.conv1d.Tensor(input, weight, bias, Dims(stride ?? 1), Dims(padding ?? 0), Dims(dilation ?? 1), groups);

            public static Tensor conv2d(
                Tensor input, Tensor weight, Tensor? bias = null, long[]? strides = null, long[]? padding = null, long[]? dilation = null, long groups = 1) =>
                Aten.conv2d.Tensor(input, weight, bias, strides ?? [1, 1], padding ?? [0, 0], dilation ?? [1, 1], groups);

            public static Tensor conv3d(
                Tensor input, Tensor weight, Tensor? bias = null, long[]? strides = null, long[]? padding = null, long[]? dilation = null, long groups = 1) =>
                Aten.conv3d.Tensor(input, weight, bias, strides ?? [1, 1, 1], padding ?? [0, 0, 0], dilation ?? [1, 1, 1], groups);

            public static Tensor conv_transpose1d(
                Tensor input, Tensor weight, Tensor? bias = null, long? stride = null, long? padding = null, long? output_padding = null, long? dilation = null, long groups = 1) =>
                Aten.conv_transpose1d.Tensor(
                    input, weight, bias, Dims(stride ?? 1), Dims(padding ?? 0), Dims(output_padding ?? 0), groups, Dims(dilation ?? 1));

            public static Tensor conv_transpose2d(
                Tensor input, Tensor weight, Tensor? bias = null, long[]? strides = null, long[]? padding = null, long[]? output_padding = null, long[]? dilation = null, long groups = 1) =>
                Aten.conv_transpose2d_input.Tensor(
                    input, weight, bias, strides ?? [1, 1], padding ?? [0, 0], output_padding ?? [0, 0], groups, dilation ?? [1, 1]);

            public static Tensor adaptive_avg_pool1d(Tensor input, long output_size) => Aten.adaptive_avg_pool1d.Tensor(input, Dims(output_size));

            public static Tensor adaptive_avg_pool2d(Tensor input, long[] output_size) => Aten.adaptive_avg_pool2d.Tensor(input, output_size);

            public static Tensor adaptive_avg_pool2d(Tensor input, (long, long) output_size) => adaptive_avg_pool2d(input, Dims(output_size));

            public static Tensor adaptive_avg_pool2d(Tensor input, long output_size) => adaptive_avg_pool2d(input, (output_size, output_size));

            public static Tensor avg_pool1d(
                Tensor input, long kernel_size, long? stride = null, long? padding = null, bool ceil_mode = false, bool count_include_pad = true) =>
                Aten.avg_pool1d.Tensor(input, Dims(kernel_size), Dims(stride ?? kernel_size), Dims(padding ?? 0), ceil_mode, count_include_pad);

            public static Tensor avg_pool2d(
                Tensor input, long[] kernel_size, long[]? stride = null, long[]? padding = null, bool ceil_mode = false, bool count_include_pad = true, long? divisor_override = null) =>
                Aten.avg_pool2d.Tensor(input, kernel_size, stride ?? kernel_size, padding ?? [0, 0], ceil_mode, count_include_pad, divisor_override);

            public static Tensor avg_pool2d(
                Tensor input, long kernel_size, long? stride = null, long padding = 0, bool ceil_mode = false, bool count_include_pad = true, long? divisor_override = null) =>
                avg_pool2d(input, [kernel_size, kernel_size], Square(stride), [padding, padding], ceil_mode, count_include_pad, divisor_override);

            public static Tensor max_pool1d(
                Tensor input, long kernel_size, long? stride = null, long? padding = null, long? dilation = null, bool ceil_mode = false) =>
                Aten.max_pool1d.Tensor(input, Dims(kernel_size), Dims(stride ?? kernel_size), Dims(padding ?? 0), Dims(dilation ?? 1), ceil_mode);

            public static Tensor max_pool2d(
                Tensor input, long[] kernel_size, long[]? strides = null, long[]? padding = null, long[]? dilation = null, bool ceil_mode = false) =>
                Aten.max_pool2d.Tensor(input, kernel_size, strides ?? kernel_size, padding ?? [0, 0], dilation ?? [1, 1], ceil_mode);

            public static Tensor max_pool2d(
                Tensor input, long kernel_size, long? stride = null, long? padding = null, long? dilation = null, bool ceil_mode = false) =>
                max_pool2d(input, [kernel_size, kernel_size], Square(stride), Square(padding), Square(dilation), ceil_mode);

            public static Tensor pad(Tensor input, long[] pad, PaddingModes mode = PaddingModes.Constant, double value = 0) => mode switch
            {
                PaddingModes.Reflect => Aten.pad.Tensor(input, pad, "reflect"),
                PaddingModes.Replicate => Aten.pad.Tensor(input, pad, "replicate"),
                PaddingModes.Circular => Aten.pad.Tensor(input, pad, "circular"),
                _ => Aten.pad.Tensor(input, pad, "constant", mode == PaddingModes.Zeros ? 0 : value),
            };

            public static Tensor pad(Tensor input, ReadOnlySpan<long> pad, PaddingModes mode = PaddingModes.Constant, double value = 0) =>
                functional.pad(input, pad.ToArray(), mode, value);

            public static Tensor pad(Tensor input, (long, long) pad, PaddingModes mode = PaddingModes.Constant, double value = 0) =>
                functional.pad(input, Dims(pad), mode, value);

            public static Tensor pad(Tensor input, (long, long, long, long) pad, PaddingModes mode = PaddingModes.Constant, double value = 0) =>
                functional.pad(input, [pad.Item1, pad.Item2, pad.Item3, pad.Item4], mode, value);

            public static Tensor pad(Tensor input, long pad, PaddingModes mode = PaddingModes.Constant, double value = 0) =>
                functional.pad(input, [pad, pad], mode, value);

            public static Tensor interpolate(
                Tensor x, long[]? size = null, double[]? scale_factor = null, InterpolationMode mode = InterpolationMode.Nearest, bool? align_corners = null, bool recompute_scale_factor = false, bool antialias = false)
            {
                var corners = align_corners ?? false;
                return (mode, x.dim()) switch
                {
                    (InterpolationMode.Nearest, 3) => Aten.upsample_nearest1d_vec.Tensor(x, size, scale_factor),
                    (InterpolationMode.Nearest, 4) => Aten.upsample_nearest2d_vec.Tensor(x, size, scale_factor),
                    (InterpolationMode.NearestExact, 3) => Aten._upsample_nearest_exact1d_vec.Tensor(x, size, scale_factor),
                    (InterpolationMode.NearestExact, 4) => Aten._upsample_nearest_exact2d_vec.Tensor(x, size, scale_factor),
                    (InterpolationMode.Linear, 3) => Aten.upsample_linear1d_vec.Tensor(x, size, corners, scale_factor),
                    (InterpolationMode.Bilinear, 4) when antialias => Aten._upsample_bilinear2d_aa_vec.Tensor(x, size, corners, scale_factor),
                    (InterpolationMode.Bilinear, 4) => Aten.upsample_bilinear2d_vec.Tensor(x, size, corners, scale_factor),
                    (InterpolationMode.Bicubic, 4) when antialias => Aten._upsample_bicubic2d_aa_vec.Tensor(x, size, corners, scale_factor),
                    (InterpolationMode.Bicubic, 4) => Aten.upsample_bicubic2d_vec.Tensor(x, size, corners, scale_factor),
                    _ => throw new NotSupportedException($"interpolate with {mode} over {x.dim()} dimensions"),
                };
            }

            private static long[]? Square(long? side) => side is long s ? [s, s] : null;
        }
    }
}
