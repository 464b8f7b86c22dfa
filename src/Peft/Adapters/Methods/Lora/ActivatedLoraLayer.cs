using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>
/// Activated LoRA (Greenewald et al. 2025): the change acts from the last place on where some tokens stand, so that what a cache holds of the
/// positions before them is the base's own.
/// </summary>
/// <param name="layer">The layer.</param>
/// <param name="config">The configuration.</param>
/// <param name="name">The adapter's name, under which a pass says where it acts.</param>
internal sealed class ActivatedLoraLayer(IAdaptable layer, LoraConfig config, string name) : LoraLayer(layer, config)
{
    /// <inheritdoc/>
    public override string? MergeObstacle => "it acts on some positions alone (alora_invocation_tokens)";

    /// <inheritdoc/>
    public override LowRank? LowRank(float weight) => null;

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        if (!call.Context.Activations.TryGetValue(name, out var acts))
        {
            return y;
        }

        return where(OfPositions(acts, y.size(0) / acts.size(0)).reshape(-1, 1), base.After(x, y, call), y);
    }

    /// <summary>Where the tokens stand in each row, and what comes behind them.</summary>
    /// <param name="wanted">The tokens.</param>
    /// <param name="ids">int64 [rows, all], from the first position on.</param>
    /// <returns>[rows, all].</returns>
    public static Tensor Find(IReadOnlyList<int> wanted, Tensor ids)
    {
        var places = ids.size(1) - wanted.Count + 1;
        if (places < 1)
        {
            return zeros_like(ids, ScalarType.Bool);
        }

        var found = ids.narrow(1, 0, places).eq(wanted[0]);
        for (var i = 1; i < wanted.Count; i++)
        {
            found = found.logical_and(ids.narrow(1, i, places).eq(wanted[i]));
        }

        // The last place, counted from one; zero for none.
        var last = found.to(ScalarType.Int64).mul(arange(1, places + 1, ScalarType.Int64, ids.device)).amax([1], keepdim: true);
        return last.gt(0).logical_and(arange(1, ids.size(1) + 1, ScalarType.Int64, ids.device).ge(last));
    }

    /// <summary>Layers see whole rows, with virtual tokens in front, or the last position of each.</summary>
    private Tensor OfPositions(Tensor acts, long length)
    {
        var known = acts.size(1);
        return length == known ? acts
            : length == 1 ? acts.narrow(1, known - 1, 1)
            : length > known ? cat([zeros([acts.size(0), length - known], ScalarType.Bool, acts.device), acts], 1)
            : throw new NotSupportedByPeftException("LoraVariantNotSupported", $"alora_invocation_tokens can't act on '{Layer.Path}', which sees some positions of a row alone.") { Target = Layer.Path };
    }
}
