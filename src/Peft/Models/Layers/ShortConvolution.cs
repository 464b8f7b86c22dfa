using System.Globalization;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>A convolution of each channel by itself over the last few positions (transformers' <c>Conv1d</c> with as many groups as channels).</summary>
internal sealed class ShortConvolution : Module
{
    /// <summary>Makes a layer without weights.</summary>
    /// <param name="channels">Number of channels.</param>
    /// <param name="size">Positions it sees, its own included.</param>
    /// <param name="hasBias">Whether it adds a bias.</param>
    public ShortConvolution(long channels, long size, bool hasBias)
        : base("Conv1d")
    {
        Channels = channels;
        Size = size;
        Weight = AddParameter("weight", [channels, 1, size]);
        Bias = hasBias ? AddParameter("bias", [channels]) : null;
    }

    /// <summary>Number of channels.</summary>
    public long Channels { get; }

    /// <summary>Positions it sees, its own included.</summary>
    public long Size { get; }

    /// <summary>[channels, 1, size].</summary>
    public Parameter Weight { get; }

    /// <summary>[channels], or null.</summary>
    public Parameter? Bias { get; }

    /// <inheritdoc/>
    public override string Details => string.Create(
        CultureInfo.InvariantCulture,
        $"{Channels}, {Channels}, kernel_size=({Size},), stride=(1,), padding=({Size - 1},), groups={Channels}{(Bias is null ? ", bias=False" : "")}");

    /// <inheritdoc/>
    /// <remarks>Its input as channels first, and its output.</remarks>
    internal override long KeptBytes(int elementBytes) => 2 * Channels * elementBytes;

    /// <summary>Convolves; autograd runs through it.</summary>
    /// <param name="x">[rows, length, channels].</param>
    /// <param name="past">The <see cref="Size"/> - 1 inputs before, [rows, size - 1, channels]; null for zeros.</param>
    /// <param name="weight">The weights, as <see cref="Weight"/>.</param>
    /// <param name="bias">The bias, or null.</param>
    /// <returns>The output, [rows, length, channels], and the last inputs for the next pass.</returns>
    public (Tensor Output, Tensor Past) Apply(Tensor x, Tensor? past, Tensor weight, Tensor? bias)
    {
        var length = x.size(1);
        if (past is null && length > Size)
        {
            var kernels = weight.to(x.dtype);
            var whole = nn.functional.conv1d(x.transpose(1, 2).contiguous(), kernels, bias?.to(x.dtype), padding: Size - 1, groups: Channels);
            return (whole.narrow(2, 0, length).transpose(1, 2), x.narrow(1, length - Size + 1, Size - 1));
        }

        var all = cat([past ?? zeros([x.size(0), Size - 1, Channels], x.dtype, x.device), x], 1);
        var kernel = weight.to(x.dtype).squeeze(1);
        var y = all.narrow(1, 0, length) * kernel.select(1, 0);
        for (long tap = 1; tap < Size; tap++)
        {
            y = y + (all.narrow(1, tap, length) * kernel.select(1, tap));
        }

        return (bias is null ? y : y + bias.to(x.dtype), all.narrow(1, length, Size - 1));
    }
}
