using System.Globalization;
using Peft.Files;
using SkiaSharp;

namespace Peft.Images;

/// <summary>Reads and writes files of images: PNG, JPEG and WebP, and whatever else Skia knows for reading.</summary>
public static class ImageFile
{
    // A small file can say that it holds a huge image.
    private const long MaxPixels = 1L << 27;
    private const int JpegQuality = 95;

    /// <summary>Endings of the names of images, in small letters.</summary>
    public static IReadOnlyCollection<string> Extensions { get; } = [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"];

    /// <summary>Whether a file's name is that of an image.</summary>
    /// <param name="path">The file.</param>
    public static bool IsImage(string path) => Extensions.Contains(Path.GetExtension(path).ToLowerInvariant());

    /// <summary>Reads an image, turned as its camera says. What is transparent becomes white.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="PeftException"><c>FileNotFound</c>, <c>FileUnreadable</c>, <c>ImageUnreadable</c> (no image), <c>ImageDamaged</c> or <c>ImageTooLarge</c>.</exception>
    public static PixelImage Read(string path) => Decode(Bytes(path), path);

    /// <summary>Width and height of an image, turned as its camera says, without its pixels.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="PeftException">As <see cref="Read"/>.</exception>
    public static (int Width, int Height) Size(string path)
    {
        using var data = SKData.CreateCopy(Bytes(path));
        using var codec = Open(data, path);
        return IsOnItsSide(codec.EncodedOrigin) ? (codec.Info.Height, codec.Info.Width) : (codec.Info.Width, codec.Info.Height);
    }

    /// <summary>The texts in a PNG by keyword, such as <c>parameters</c>; none in other files.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="PeftException"><c>FileNotFound</c> or <c>FileUnreadable</c>.</exception>
    public static IReadOnlyDictionary<string, string> ReadTexts(string path) => PngTexts.Read(Bytes(path));

    /// <summary>Writes an image as the file's name says: <c>.jpg</c> and <c>.jpeg</c>, <c>.webp</c>, and PNG for all else. A file of the name is replaced as one, and a folder that is missing is made.</summary>
    /// <param name="image">The image.</param>
    /// <param name="path">The file.</param>
    /// <param name="texts">Texts by keyword to keep in a PNG; other kinds keep none.</param>
    /// <exception cref="PeftException">The file can't be written.</exception>
    public static void Write(PixelImage image, string path, IReadOnlyDictionary<string, string>? texts = null)
    {
        ArgumentNullException.ThrowIfNull(image);
        var format = Path.GetExtension(path).ToLowerInvariant() switch
        {
            ".jpg" or ".jpeg" => SKEncodedImageFormat.Jpeg,
            ".webp" => SKEncodedImageFormat.Webp,
            _ => SKEncodedImageFormat.Png,
        };
        var bytes = Encode(image, format);
        AtomicFile.MakeFolder(Path.GetDirectoryName(Path.GetFullPath(path))!);
        AtomicFile.Write(path, stream => stream.Write(format == SKEncodedImageFormat.Png && texts is { Count: > 0 } ? PngTexts.Add(bytes, texts) : bytes));
    }

    internal static PixelImage Decode(byte[] bytes, string path)
    {
        using var data = SKData.CreateCopy(bytes);
        using var codec = Open(data, path);
        using var bitmap = new SKBitmap(new SKImageInfo(codec.Info.Width, codec.Info.Height, SKColorType.Rgba8888, SKAlphaType.Premul));
        var result = codec.GetPixels(bitmap.Info, bitmap.GetPixels());
        if (result != SKCodecResult.Success)
        {
            throw new PeftException("ImageDamaged", $"The image '{path}' is cut off or damaged ({result}).")
            {
                Target = path,
            };
        }

        var turned = IsOnItsSide(codec.EncodedOrigin);
        using var upright = new SKBitmap(new SKImageInfo(turned ? bitmap.Height : bitmap.Width, turned ? bitmap.Width : bitmap.Height, SKColorType.Rgba8888, SKAlphaType.Opaque));
        using var canvas = new SKCanvas(upright);
        canvas.Clear(SKColors.White);
        canvas.SetMatrix(Turn(codec.EncodedOrigin, bitmap.Width, bitmap.Height));
        canvas.DrawBitmap(bitmap, 0, 0, new SKSamplingOptions(SKFilterMode.Nearest));
        canvas.Flush();
        return PixelImage.FromBitmap(upright);
    }

    private static SKCodec Open(SKData data, string path)
    {
        var codec = SKCodec.Create(data) ?? throw new PeftException("ImageUnreadable", $"'{path}' is no image that can be read: neither PNG nor JPEG nor WebP, BMP or GIF.")
        {
            Target = path,
        };
        var (width, height) = (codec.Info.Width, codec.Info.Height);
        if (width >= 1 && height >= 1 && (long)width * height <= MaxPixels)
        {
            return codec;
        }

        codec.Dispose();
        throw new PeftException("ImageTooLarge", string.Create(CultureInfo.InvariantCulture, $"The image '{path}' says that it has {width} x {height} pixels, more than the {MaxPixels} that are read."))
        {
            Target = path,
        };
    }

    private static bool IsOnItsSide(SKEncodedOrigin origin) => origin is SKEncodedOrigin.LeftTop or SKEncodedOrigin.RightTop or SKEncodedOrigin.RightBottom or SKEncodedOrigin.LeftBottom;

    // Where the stored rows and columns lie in the upright picture (EXIF's orientation).
    private static SKMatrix Turn(SKEncodedOrigin origin, int width, int height) => origin switch
    {
        SKEncodedOrigin.TopRight => new(-1, 0, width, 0, 1, 0, 0, 0, 1),
        SKEncodedOrigin.BottomRight => new(-1, 0, width, 0, -1, height, 0, 0, 1),
        SKEncodedOrigin.BottomLeft => new(1, 0, 0, 0, -1, height, 0, 0, 1),
        SKEncodedOrigin.LeftTop => new(0, 1, 0, 1, 0, 0, 0, 0, 1),
        SKEncodedOrigin.RightTop => new(0, -1, height, 1, 0, 0, 0, 0, 1),
        SKEncodedOrigin.RightBottom => new(0, -1, height, -1, 0, width, 0, 0, 1),
        SKEncodedOrigin.LeftBottom => new(0, 1, 0, -1, 0, width, 0, 0, 1),
        _ => SKMatrix.Identity,
    };

    private static byte[] Encode(PixelImage image, SKEncodedImageFormat format)
    {
        using var bitmap = image.ToBitmap();
        using var data = bitmap.Encode(format, format == SKEncodedImageFormat.Jpeg ? JpegQuality : 100);
        return data.ToArray();
    }

    private static byte[] Bytes(string path)
    {
        try
        {
            return File.ReadAllBytes(path);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw FileErrors.Unreadable(path, error);
        }
    }
}
