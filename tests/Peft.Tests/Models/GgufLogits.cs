using Peft.Models;
using Peft.Models.Heads;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Logits of a model beside those of a GGUF file that was written of it.</summary>
internal static class GgufLogits
{
    /// <summary>Tokens of a vocabulary of 62 or more.</summary>
    public static int[] Ids { get; } = [5, 17, 3, 40, 22, 9, 61, 12];

    /// <summary>Logits [length, vocabulary] of one row in float32.</summary>
    public static Tensor Of(CausalModel model, int[] ids, ForwardContext? pass = null)
    {
        using var noGrad = no_grad();
        var context = pass ?? new ForwardContext();
        return model.Logits(model.Forward(tensor(ids.Select(static id => (long)id).ToArray(), [1, ids.Length]), context), context).to(ScalarType.Float32);
    }

    /// <summary>Holds to what llama.cpp gives, within a share of the range of the logits.</summary>
    public static void Close(Tensor ours, float[][] theirs, double share) => Close(ours, tensor(theirs.SelectMany(static row => row).ToArray()).view(ours.shape), share);

    /// <summary>Holds to other logits, within a share of the range of the logits.</summary>
    public static void Close(Tensor ours, Tensor others, double share)
    {
        var range = (ours.max() - ours.min()).item<float>();
        var difference = (ours - others).abs().max().item<float>();
        Assert.True(difference <= share * range, $"the largest difference is {difference}, the range of the logits {range}");
    }
}
