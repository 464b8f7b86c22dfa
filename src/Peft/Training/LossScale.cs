using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>
/// Multiplies the loss before a backward pass in float16, whose smallest number is 6e-8, and divides the gradients after it (Micikevicius et al.
/// 2018, "Mixed precision training"). Where gradients then are too large for the type, the pass is made again with half the factor. A power of two,
/// it changes no digit of what fits.
/// </summary>
internal sealed class LossScale
{
    private const double Start = 4096;

    /// <summary>A factor for a model.</summary>
    /// <param name="type">The type it computes in.</param>
    public LossScale(ScalarType type) => Value = type == ScalarType.Float16 ? Start : 1;

    /// <summary>The factor; 1 where there is none.</summary>
    public double Value { get; set; }

    /// <summary>What a backward pass begins with; null for 1.</summary>
    /// <param name="loss">The loss.</param>
    public Tensor? Gradient(Tensor loss) => Value == 1 ? null : full_like(loss, Value);

    /// <summary>Divides gradients, and says whether they can be used: false where the pass is to be made again, with the factor that <see cref="Value"/> is then.</summary>
    /// <param name="gradients">All gradients.</param>
    public bool Takes(Tensor gradients)
    {
        if (Value == 1)
        {
            return true;
        }

        using var scope = NewDisposeScope();
        if (gradients.isfinite().all().item<bool>())
        {
            gradients.div_(Value);
            return true;
        }

        Value /= 2;
        return false;
    }
}
