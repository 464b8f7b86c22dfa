using static TorchSharp.torch;

namespace Peft.Training.Objectives;

/// <summary>
/// Language modelling in which each token counts as much as the model already believes in it (Wu et al. 2025): the cross-entropy times the token's own probability,
/// through which no gradient flows.
/// </summary>
public sealed class DynamicFineTuning : IObjective
{
    /// <inheritdoc/>
    public string Name => "dft";

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        ArgumentNullException.ThrowIfNull(pass);
        var divisor = pass.Divisor ?? Math.Max(1, pass.Batch.TargetCount);
        return pass.Formula(inputs => inputs[0].mul(inputs[0].detach().neg().exp()).sum().div(divisor), pass.Losses());
    }
}
