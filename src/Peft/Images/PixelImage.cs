using SkiaSharp;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Images;

/// <summary>An image in memory: red, green and blue of each pixel, from the top left, row by row.</summary>
public sealed class PixelImage
{
    private const int Channels = 3;

    /// <summary>Wraps pixels.</summary>
    /// <param name="width">Pixels in a row.</param>
    /// <param name="height">Rows.</param>
    /// <param name="pixels">Three bytes a pixel.</param>
    public PixelImage(int width, int height, byte[] pixels)
    {
        ArgumentNullException.ThrowIfNull(pixels);
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(height, 1);
        ArgumentOutOfRangeException.ThrowIfNotEqual(pixels.Length, width * height * Channels);
        (Width, Height, Pixels) = (width, height, pixels);
    }

    /// <summary>Pixels in a row.</summary>
    public int Width { get; }

    /// <summary>Number of rows.</summary>
    public int Height { get; }

    /// <summary>Three bytes a pixel.</summary>
    internal byte[] Pixels { get; }

    /// <summary>The image of a tensor.</summary>
    /// <param name="values">[3, height, width] from -1 (black) to 1; what lies beyond is cut off.</param>
    public static PixelImage FromTensor(Tensor values)
    {
        using var scope = NewDisposeScope();
        var bytes = values.to(ScalarType.Float32).add(1).mul(127.5).round().clamp(0, 255).to(ScalarType.Byte).permute(1, 2, 0).contiguous().cpu();
        return new((int)values.size(2), (int)values.size(1), bytes.data<byte>().ToArray());
    }

    /// <summary>float32 [3, height, width] from -1 (black) to 1.</summary>
    public Tensor ToTensor()
    {
        using var scope = NewDisposeScope();
        return tensor(Pixels, [Height, Width, Channels]).to(ScalarType.Float32).div(127.5).sub(1).permute(2, 0, 1).contiguous().MoveToOuterDisposeScope();
    }

    /// <summary>The image in another size.</summary>
    /// <param name="width">Pixels in a row.</param>
    /// <param name="height">Rows.</param>
    public PixelImage Resize(int width, int height)
    {
        if (width == Width && height == Height)
        {
            return this;
        }

        // Halving first keeps fine detail from becoming noise; enlarging is bicubic (Mitchell).
        var sampling = width * 2 <= Width || height * 2 <= Height ? new SKSamplingOptions(SKFilterMode.Linear, SKMipmapMode.Linear) : new SKSamplingOptions(SKCubicResampler.Mitchell);
        using var bitmap = ToBitmap();
        using var resized = bitmap.Resize(new SKImageInfo(width, height, SKColorType.Rgba8888, SKAlphaType.Opaque), sampling);
        return FromBitmap(resized);
    }

    /// <summary>A part of the image.</summary>
    /// <param name="left">Its first column.</param>
    /// <param name="top">Its first row.</param>
    /// <param name="width">Its columns.</param>
    /// <param name="height">Its rows.</param>
    public PixelImage Crop(int left, int top, int width, int height)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(left);
        ArgumentOutOfRangeException.ThrowIfNegative(top);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(left + width, Width);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(top + height, Height);
        var pixels = new byte[width * height * Channels];
        for (var row = 0; row < height; row++)
        {
            Pixels.AsSpan((((top + row) * Width) + left) * Channels, width * Channels).CopyTo(pixels.AsSpan(row * width * Channels));
        }

        return new(width, height, pixels);
    }

    /// <summary>The image in another size and shape: as large as it fits over it, and cut at both sides alike.</summary>
    /// <param name="width">Pixels in a row.</param>
    /// <param name="height">Rows.</param>
    public PixelImage Cover(int width, int height)
    {
        var scale = Math.Max((double)width / Width, (double)height / Height);
        var (wide, high) = (Math.Max(width, (int)Math.Round(Width * scale)), Math.Max(height, (int)Math.Round(Height * scale)));
        return Resize(wide, high).Crop((wide - width) / 2, (high - height) / 2, width, height);
    }

    /// <summary>The image with left and right exchanged.</summary>
    public PixelImage Mirror()
    {
        var pixels = new byte[Pixels.Length];
        for (var pixel = 0; pixel < Width * Height; pixel++)
        {
            var mirrored = (pixel / Width * Width) + Width - 1 - (pixel % Width);
            Pixels.AsSpan(pixel * Channels, Channels).CopyTo(pixels.AsSpan(mirrored * Channels));
        }

        return new(Width, Height, pixels);
    }

    /// <summary>Pixels of a bitmap in RGBA without transparency.</summary>
    internal static PixelImage FromBitmap(SKBitmap bitmap)
    {
        var source = bitmap.GetPixelSpan();
        var pixels = new byte[bitmap.Width * bitmap.Height * Channels];
        for (var row = 0; row < bitmap.Height; row++)
        {
            for (var column = 0; column < bitmap.Width; column++)
            {
                source.Slice((row * bitmap.RowBytes) + (column * 4), Channels).CopyTo(pixels.AsSpan(((row * bitmap.Width) + column) * Channels));
            }
        }

        return new(bitmap.Width, bitmap.Height, pixels);
    }

    /// <summary>A bitmap in RGBA.</summary>
    internal SKBitmap ToBitmap()
    {
        var bitmap = new SKBitmap(new SKImageInfo(Width, Height, SKColorType.Rgba8888, SKAlphaType.Opaque));
        var target = bitmap.GetPixelSpan();
        for (var pixel = 0; pixel < Width * Height; pixel++)
        {
            var place = target.Slice((pixel / Width * bitmap.RowBytes) + (pixel % Width * 4), 4);
            Pixels.AsSpan(pixel * Channels, Channels).CopyTo(place);
            place[3] = byte.MaxValue;
        }

        return bitmap;
    }
}
