namespace Peft.Training.Diffusion;

/// <summary>
/// The sizes that images of any shape are cut to, so that those of one shape stand in one batch: multiples of a step with no more pixels than a square of the resolution.
/// </summary>
public sealed class AspectBuckets
{
    private readonly (int Width, int Height)[] _sizes;

    /// <summary>Makes the sizes.</summary>
    /// <param name="resolution">Side of the square, in pixels.</param>
    /// <param name="step">Sides are multiples of it.</param>
    /// <param name="squareOnly">Whether every image becomes a square.</param>
    public AspectBuckets(int resolution, int step, bool squareOnly = false)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(step, 1);
        var side = Math.Max(step, resolution / step * step);
        HashSet<(int, int)> sizes = [(side, side)];
        for (var width = Math.Max(step, side / 2 / step * step); width <= side && !squareOnly; width += step)
        {
            var height = Math.Min((long)side * side / width / step * step, 2L * side / step * step);
            sizes.Add((width, (int)height));
            sizes.Add(((int)height, width));
        }

        _sizes = [.. sizes.Order()];
    }

    /// <summary>The sizes, narrow ones first.</summary>
    public IReadOnlyList<(int Width, int Height)> Sizes => _sizes;

    /// <summary>The size whose shape is nearest to an image's.</summary>
    /// <param name="width">The image's width.</param>
    /// <param name="height">The image's height.</param>
    public (int Width, int Height) For(int width, int height)
    {
        var shape = Math.Log((double)width / height);
        return _sizes.MinBy(size => (Math.Abs(Math.Log((double)size.Width / size.Height) - shape), -(long)size.Width * size.Height));
    }
}
