using System.Globalization;
using System.Text.Json;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Compares tensors as the golden cases ask for: |actual - expected| ≤ atol + rtol · |expected|, element by element.</summary>
internal static class TensorAssert
{
    /// <summary>Holds to a tolerance a case states.</summary>
    /// <param name="expected">What the peer computed.</param>
    /// <param name="actual">What Peft computed, of the same number of elements.</param>
    /// <param name="tolerance">An object with <c>atol</c> and <c>rtol</c>.</param>
    /// <param name="what">Named in the message.</param>
    public static void Close(Tensor expected, Tensor actual, JsonElement tolerance, string what = "values") =>
        Close(expected, actual, tolerance.GetProperty("atol").GetDouble(), tolerance.GetProperty("rtol").GetDouble(), what);

    /// <summary>Holds to a tolerance.</summary>
    public static void Close(Tensor expected, Tensor actual, double atol, double rtol, string what = "values")
    {
        using var scope = NewDisposeScope();
        Assert.Equal(expected.NumberOfElements, actual.NumberOfElements);
        var wanted = expected.to(ScalarType.Float64).reshape(-1);
        var values = actual.to(ScalarType.Float64).reshape(-1);
        var difference = values.sub(wanted).abs();
        var allowed = wanted.abs().mul(rtol).add(atol);

        // Infinite values may be equal, but their difference is no number.
        if (difference.NumberOfElements > 0 && !difference.le(allowed).logical_or(values.eq(wanted)).all().item<bool>())
        {
            Assert.Fail(string.Create(
                CultureInfo.InvariantCulture,
                $"{what}: largest difference {difference.max().item<double>():e2}, allowed {atol:e2} + {rtol:e1} relative"));
        }
    }

    /// <summary>Holds to a share of the largest expected value.</summary>
    public static void CloseToScale(Tensor expected, Tensor actual, double share, string what = "values") =>
        Close(expected, actual, share * Math.Max(1e-12, expected.abs().max().to(ScalarType.Float64).item<double>()), 0, what);
}
