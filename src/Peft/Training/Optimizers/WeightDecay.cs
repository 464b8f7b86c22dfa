using System.Text.RegularExpressions;

namespace Peft.Training.Optimizers;

/// <summary>Which parameters weight decay leaves alone: transformers' rule.</summary>
internal static partial class WeightDecay
{
    /// <summary>Whether a parameter is spared: a bias, or one of a norm, told by its name or by the class of its module.</summary>
    public static bool Spares(TrainedParameter trained) =>
        trained.Module?.ClassName is "LayerNorm" || SparedName().IsMatch(trained.Name);

    [GeneratedRegex(@"bias|layernorm|rmsnorm|(^|\.)norm($|\.)|_norm($|\.)", RegexOptions.IgnoreCase | RegexOptions.CultureInvariant | RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex SparedName();
}
