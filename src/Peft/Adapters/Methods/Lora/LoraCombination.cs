using Peft.Adapters.Combination;
using Peft.Adapters.Targets;
using Peft.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>Several LoRA adapters as one, layer by layer. The formulas are those of PEFT's <c>add_weighted_adapter</c>.</summary>
internal sealed class LoraCombination(IReadOnlyList<AdapterPart> parts, CombinationOptions options, Generator generator)
{
    private readonly TaskArithmetic _arithmetic = new(options, generator);

    /// <summary>The new adapter's configuration: the first part's, with the targets of all and a scale of 1: the parts' scales are in the factors, so rsLoRA, which would put √rank on top as PEFT does, ends here.</summary>
    public static LoraConfig Config(IReadOnlyList<AdapterPart> parts, CombinationOptions options)
    {
        LoraConfig[] configs = [.. parts.Select(static part => (LoraConfig)part.Adapter.Config)];
        if (Array.Exists(configs, static config => config.LoraBias))
        {
            throw new NotSupportedByPeftException("CombinationNotSupported", "Combining adapters with lora_bias is not supported.") { Target = "lora_bias" };
        }

        if (Array.Exists(configs, static config => config.TargetParameters is { Count: > 0 }))
        {
            throw new NotSupportedByPeftException("CombinationNotSupported", "Combining adapters of parameters (target_parameters) is not supported.") { Target = "target_parameters" };
        }

        if (Array.Exists(configs, static config => config.TrainableTokens is not null))
        {
            throw new NotSupportedByPeftException("CombinationNotSupported", "Combining adapters with vectors of tokens (trainable_token_indices) is not supported.") { Target = "trainable_token_indices" };
        }

        int[] ranks = [.. configs.Select(static config => config.RankPattern.Values.Prepend(config.Rank).Max())];
        if (options.Type != CombinationType.Cat && !options.Type.Decomposes() && ranks.Distinct().Skip(1).Any())
        {
            throw Invalid($"{options.Type} combines factors one by one, so all adapters must have one rank; they have {string.Join(", ", ranks)}.");
        }

        var rank = options.Type == CombinationType.Cat ? ranks.Sum() : options.Type.Decomposes() && options.Rank is { } given ? given : ranks.Max();
        return configs[0] with
        {
            Rank = rank,
            Alpha = rank,
            UseRslora = false,
            RankPattern = new Dictionary<string, int>(),
            AlphaPattern = new Dictionary<string, double>(),
            TargetModules = ModuleNames.Union([.. configs.Select(static config => config.TargetModules!)]),
        };
    }

    /// <summary>Fills the factors of one new layer.</summary>
    /// <param name="path">The module's path.</param>
    /// <param name="target">The new factors.</param>
    public void Fill(string path, LowRank target)
    {
        var found = parts.Select(part => (Factors: part.On(path)?.LowRank(1)!, part.Weight)).Where(static part => part.Factors is not null).ToArray();
        var (a, b) = options.Type == CombinationType.Cat ? SideBySide(found)
            : options.Type.Decomposes() ? Decompose(found, (int)target.A.Shape[0])
            : OneByOne(found);
        Put(a, target.A);
        Put(b, target.B);
    }

    private static (Tensor A, Tensor B) SideBySide((LowRank Factors, double Weight)[] found) => (
        cat([.. found.Select(static part => part.Factors.A.Data.mul(part.Weight * part.Factors.Scale))], 0),
        cat([.. found.Select(static part => part.Factors.B.Data.alias())], 1));

    /// <summary>Each factor gets the root of the weight, and A its sign.</summary>
    private (Tensor A, Tensor B) OneByOne((LowRank Factors, double Weight)[] found)
    {
        double[] weights = [.. found.Select(static part => part.Weight * part.Factors.Scale)];
        return (
            _arithmetic.Combine(found.Select(static part => part.Factors.A.Data), [.. weights.Select(static weight => Math.Sqrt(Math.Abs(weight)) * (weight < 0 ? -1 : 1))]),
            _arithmetic.Combine(found.Select(static part => part.Factors.B.Data), [.. weights.Select(static weight => Math.Sqrt(Math.Abs(weight)))]));
    }

    private (Tensor A, Tensor B) Decompose((LowRank Factors, double Weight)[] found, int rank)
    {
        var change = _arithmetic.Combine(
            found.Select(static part => part.Factors.B.Data.flatten(1).mm(part.Factors.A.Data.flatten(1)).mul_(part.Factors.Scale)), [.. found.Select(static part => part.Weight)]);
        var (u, s, vh) = linalg.svd(change, fullMatrices: false);
        rank = (int)Math.Min(rank, s.shape[0]);
        var b = u.narrow(1, 0, rank).mul(s.narrow(0, 0, rank));
        var a = vh.narrow(0, 0, rank);
        if (options.Clamp is not { } clamp)
        {
            return (a, b);
        }

        var limit = cat([b.flatten(), a.flatten()], 0).quantile(tensor(clamp, b.dtype, b.device)).item<float>();
        return (a.clamp(-limit, limit), b.clamp(-limit, limit));
    }

    /// <summary>Copies a factor that may have less rank than there is room for.</summary>
    private static void Put(Tensor factor, Parameter target)
    {
        var room = zeros_like(target.Data);
        var part = room.narrow(0, 0, factor.shape[0]);
        part = part.dim() == factor.dim() ? part.narrow(1, 0, factor.shape[1]) : part;
        part.copy_(factor.reshape(part.shape));
        target.Data.copy_(room);
        target.MarkChanged();
    }

    private static PeftException Invalid(string message) => new("CombinationInvalid", message)
    {
        RecommendedAction = "Combine LoRA adapters of one rank, or choose Svd or Cat, which take any ranks.",
    };
}
