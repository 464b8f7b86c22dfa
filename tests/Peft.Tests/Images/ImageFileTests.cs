using Peft.Images;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Images;

/// <summary>Images in files and in memory.</summary>
public sealed class ImageFileTests
{
    [Theory]
    [InlineData("picture.png", 0)]
    [InlineData("picture.webp", 0)]
    [InlineData("picture.jpg", 12)]
    public void What_is_written_is_read_again(string name, int allowed)
    {
        using var folder = new TemporaryFolder();
        var image = Gradient(33, 17);
        ImageFile.Write(image, folder[name]);
        var read = ImageFile.Read(folder[name]);
        Assert.Equal((33, 17), (read.Width, read.Height));
        Assert.Equal((33, 17), ImageFile.Size(folder[name]));
        Assert.True(image.Pixels.Zip(read.Pixels, static (a, b) => Math.Abs(a - b)).Max() <= allowed);
    }

    [Fact]
    public void A_png_keeps_texts_in_any_letters_and_stays_an_image()
    {
        using var folder = new TemporaryFolder();
        var texts = new Dictionary<string, string> { ["parameters"] = "a café\nSteps: 20, Sampler: Euler, Seed: 7", ["prompt"] = "絵文字 🙂" };
        ImageFile.Write(Gradient(4, 4), folder["a.png"], texts);
        Assert.Equal(texts, ImageFile.ReadTexts(folder["a.png"]));
        Assert.Equal(Gradient(4, 4).Pixels, ImageFile.Read(folder["a.png"]).Pixels);
        ImageFile.Write(Gradient(4, 4), folder["a.jpg"], texts);
        Assert.Empty(ImageFile.ReadTexts(folder["a.jpg"]));
    }

    [Fact]
    public void What_is_transparent_becomes_white()
    {
        using var bitmap = new SkiaSharp.SKBitmap(new SkiaSharp.SKImageInfo(2, 1, SkiaSharp.SKColorType.Rgba8888, SkiaSharp.SKAlphaType.Unpremul));
        bitmap.SetPixel(0, 0, new SkiaSharp.SKColor(200, 0, 0, 0));
        bitmap.SetPixel(1, 0, new SkiaSharp.SKColor(200, 0, 0, 255));
        using var data = bitmap.Encode(SkiaSharp.SKEncodedImageFormat.Png, 100);
        Assert.Equal([255, 255, 255, 200, 0, 0], ImageFile.Decode(data.ToArray(), "a.png").Pixels);
    }

    [Fact]
    public void A_photograph_is_turned_as_its_camera_says()
    {
        using var folder = new TemporaryFolder();
        ImageFile.Write(Halves(16, 8), folder["a.jpg"]);
        var plain = File.ReadAllBytes(folder["a.jpg"]);

        // EXIF with the one entry that the right side is up.
        byte[] exif = [.. "Exif\0\0II*\0"u8, 8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
        File.WriteAllBytes(folder["b.jpg"], [.. plain[..2], 0xFF, 0xE1, 0, (byte)(exif.Length + 2), .. exif, .. plain[2..]]);
        Assert.Equal((8, 16), ImageFile.Size(folder["b.jpg"]));
        var read = ImageFile.Read(folder["b.jpg"]);
        Assert.Equal((8, 16), (read.Width, read.Height));
        Assert.True(read.Pixels[0] > 200 && read.Pixels[^1] < 50, "what was left is above");
    }

    [Theory]
    [InlineData("ImageUnreadable", "this is a text and no image at all")]
    [InlineData("ImageUnreadable", "")]
    public void A_file_that_is_no_image_is_a_named_error(string id, string content)
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["a.png"], content);
        var error = Assert.Throws<PeftException>(() => ImageFile.Read(folder["a.png"]));
        Assert.Equal(id, error.ErrorId);
        Assert.Contains("a.png", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_image_that_is_cut_off_or_missing_is_a_named_error()
    {
        using var folder = new TemporaryFolder();
        ImageFile.Write(Noise(64, 64), folder["a.png"]);
        var bytes = File.ReadAllBytes(folder["a.png"]);
        File.WriteAllBytes(folder["b.png"], bytes[..(bytes.Length / 2)]);
        Assert.Equal("ImageDamaged", Assert.Throws<PeftException>(() => ImageFile.Read(folder["b.png"])).ErrorId);
        Assert.Equal("FileNotFound", Assert.Throws<PeftException>(() => ImageFile.Read(folder["c.png"])).ErrorId);
    }

    [Fact]
    public void Tensors_run_from_black_at_minus_one_to_white_at_one()
    {
        var image = Halves(4, 2);
        using var values = image.ToTensor();
        Assert.Equal([3, 2, 4], values.shape);
        Assert.Equal((1, -1), (values[0, 0, 0].item<float>(), values[2, 1, 3].item<float>()));
        Assert.Equal(image.Pixels, PixelImage.FromTensor(values).Pixels);
        Assert.Equal(255, PixelImage.FromTensor(values.mul(7)).Pixels[0]);
    }

    [Fact]
    public void An_image_covers_another_shape_without_being_stretched()
    {
        var square = Halves(40, 20).Cover(10, 10);
        Assert.Equal((10, 10), (square.Width, square.Height));
        Assert.True(square.Pixels[0] > 200 && square.Pixels[27] < 50, "white at the left, black at the right");
        Assert.Equal(Halves(4, 2).Pixels[..3], Halves(4, 2).Mirror().Pixels[^3..]);
        Assert.Equal([0, 0, 0], Halves(4, 2).Crop(2, 1, 1, 1).Pixels);
        Assert.Throws<ArgumentOutOfRangeException>(() => Halves(4, 2).Crop(3, 0, 2, 1));
    }

    private static PixelImage Gradient(int width, int height) =>
        new(width, height, [.. Enumerable.Range(0, width * height * 3).Select(i => (byte)((i / 3 % width * 200 / width) + (i % 3 * 20)))]);

    private static PixelImage Halves(int width, int height) =>
        new(width, height, [.. Enumerable.Range(0, width * height * 3).Select(i => i / 3 % width < width / 2 ? byte.MaxValue : (byte)0)]);

    private static PixelImage Noise(int width, int height)
    {
        var pixels = new byte[width * height * 3];
        new Random(3).NextBytes(pixels);
        return new(width, height, pixels);
    }
}
