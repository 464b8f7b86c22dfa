using System.Text.Json.Serialization;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>How MonteCLoRA draws and what holds its distributions to their priors.</summary>
public sealed record MonteCloraSettings
{
    /// <summary>Draws of the first factor in a pass, which are mixed.</summary>
    [JsonPropertyName("num_samples")]
    public int Samples { get; init; } = 8;

    /// <summary>Whether the loss counts the squares of the draws' shares, so that none takes everything.</summary>
    [JsonPropertyName("use_entropy")]
    public bool UseEntropy { get; init; }

    /// <summary>Concentration of the prior of the shares.</summary>
    [JsonPropertyName("dirichlet_prior")]
    public double DirichletPrior { get; init; } = 0.1;

    /// <summary>Multiplies what is added to the first factor.</summary>
    [JsonPropertyName("sample_scaler")]
    public double SampleScale { get; init; } = 1e-4;

    /// <summary>Weight of the divergence from the priors in the loss.</summary>
    [JsonPropertyName("kl_loss_weight")]
    public double DivergenceWeight { get; init; } = 1e-5;

    /// <summary>How many draws PEFT makes ahead; each pass draws its own here.</summary>
    [JsonPropertyName("buffer_size")]
    public int BufferSize { get; init; } = 150;

    /// <summary>Refuses settings that PEFT refuses.</summary>
    /// <exception cref="PeftException"><c>AdapterConfigContradictory</c>.</exception>
    internal void Validate()
    {
        if (Samples <= 0 || BufferSize <= 0 || !(DirichletPrior > 0))
        {
            throw new PeftException("AdapterConfigContradictory", FormattableString.Invariant($"monteclora_config needs num_samples, dirichlet_prior and buffer_size above 0, not {Samples}, {DirichletPrior} and {BufferSize}."))
            {
                Target = "monteclora_config",
                RecommendedAction = "Leave them out for PEFT's defaults.",
            };
        }
    }
}

/// <summary>What a pass drew for a layer.</summary>
/// <param name="Noise">[samples, in, rank], standard normal.</param>
/// <param name="Spread">[rank], chi-squared with as many degrees as ranks: the diagonal of a Wishart matrix.</param>
/// <param name="Shares">[samples], standard normal.</param>
internal sealed record MonteCloraDraw(Tensor Noise, Tensor Spread, Tensor Shares) : IDisposable
{
    /// <summary>Takes it out of the dispose scope of a pass.</summary>
    public MonteCloraDraw Kept() => new(Noise.DetachFromDisposeScope(), Spread.DetachFromDisposeScope(), Shares.DetachFromDisposeScope());

    /// <inheritdoc/>
    public void Dispose()
    {
        Noise.Dispose();
        Spread.Dispose();
        Shares.Dispose();
    }
}

/// <summary>
/// MonteCLoRA (Sengupta et al. 2024): in training the first factor is a mixture of draws around it, whose spread and shares are learnt. Outside of training it is LoRA.
/// </summary>
internal sealed class MonteCloraLayer : LoraLayer
{
    private const double LeastVariance = 1e-3, LeastShare = 1e-6;

    private readonly MonteCloraSettings _settings;
    private readonly Parameter _spread;
    private readonly Parameter _shares;
    private readonly Parameter _lastVariance;
    private readonly Parameter _lastShares;
    private MonteCloraDraw? _drawn;

    /// <summary>Makes the parameters, by shape alone.</summary>
    public MonteCloraLayer(IAdaptable layer, LoraConfig config, MonteCloraSettings settings)
        : base(layer, config)
    {
        _settings = settings;
        var rank = A.Shape[0];
        _spread = new Parameter("std_prior", [rank]);
        _shares = new Parameter("expert_weights_prior", [settings.Samples]);
        _lastVariance = new Parameter("gaussian_var_prior", [rank, rank]);
        _lastShares = new Parameter("expert_weights", [settings.Samples]);
        Parameters =
        [
            .. base.Parameters,
            .. new[] { _spread, _shares }.Select(static parameter => new LayerParameter($"lora_monteclora_sampler.{parameter.Name}", parameter)),
            .. new[] { _lastVariance, _lastShares }.Select(static parameter => new LayerParameter($"lora_monteclora_sampler.{parameter.Name}", parameter, ParameterRole.Frozen)),
        ];
    }

    /// <summary>Draws for a pass; a test gives what the peer drew.</summary>
    internal Func<Generator?, MonteCloraDraw>? Source { get; set; }

    /// <inheritdoc/>
    public override bool RowSelectable => false;

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <summary>What the loss's own term is a function of.</summary>
    public IReadOnlyList<Parameter> Priors => [_spread, _shares];

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        base.Initialise(generator);
        _spread.Assign(rand([.. _spread.Shape], generator: generator).to(Layer.Device));
        _shares.Assign(rand([.. _shares.Shape], generator: generator).to(Layer.Device));
        _lastVariance.Assign(eye(A.Shape[0], dtype: ScalarType.Float32, device: Layer.Device));
        _lastShares.Assign(full([_settings.Samples], 1f / _settings.Samples, ScalarType.Float32, Layer.Device));
    }

    /// <summary>In training it is no product of the two factors.</summary>
    public override LowRank? Fused(float weight) => null;

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        if (!call.Context.IsTraining)
        {
            return base.After(x, y, call);
        }

        _drawn?.Dispose();
        _drawn = (Source ?? Draw)(call.Context.Generator).Kept();
        var (variance, shares) = (Variance(_drawn), Shares(_drawn));
        Remember(variance, shares);

        // The mixture's shares sum up to one, so that the factor itself is in it once.
        var noise = einsum("n,nij->ji", shares, _drawn.Noise) * variance.sqrt().unsqueeze(1) * _settings.SampleScale;
        var factor = A.Data + noise.nan_to_num(0, 0, 0);
        var input = Dropped(x, call, out _);
        var change = input.reshape(-1, input.size(-1)).mm(factor.to(y.dtype).t()).mm(FactorB(y.dtype).t()).view_as(y) * Scale;
        return y + ((Bias is null ? change : change + (Bias.Data.to(y.dtype) * Scale)) * call.Weight);
    }

    /// <summary>The divergence of what is learnt from its priors, weighted, and the shares' squares where they count; null before a pass drew anything.</summary>
    public Tensor? Term()
    {
        if (_drawn is not { } drawn)
        {
            return null;
        }

        var (rank, samples) = (A.Shape[0], _settings.Samples);
        var alpha = _shares.Data.exp();
        var prior = ones_like(alpha) * _settings.DirichletPrior;
        var dirichlet = alpha.sum().lgamma() - prior.sum().lgamma() + (alpha.lgamma() - prior.lgamma()).sum()
            + ((alpha - prior) * (alpha.digamma() - alpha.sum().digamma())).sum();
        var deviation = (_spread.Data * 2).exp();
        var wishart = ((deviation - deviation.log()).sum() * rank - (rank * rank)) * 0.5;
        var variance = Variance(drawn);
        var normal = ((variance - variance.log()).sum() - rank) * (0.5 * samples);
        var term = (dirichlet + wishart + normal) * _settings.DivergenceWeight;
        return _settings.UseEntropy ? term + Shares(drawn).square().sum() : term;
    }

    /// <summary>[rank].</summary>
    private Tensor Variance(MonteCloraDraw drawn) => ((_spread.Data * 2).exp() * drawn.Spread).clamp_min(LeastVariance);

    /// <summary>A Dirichlet's draw, taken for a normal one of the logarithms.</summary>
    private Tensor Shares(MonteCloraDraw drawn)
    {
        var alpha = _shares.Data.exp().clamp_min(LeastShare);
        var samples = (double)_settings.Samples;
        var variance = ((alpha.reciprocal() * (1 - (2 / samples))) + (alpha.reciprocal().sum() / (samples * samples))).clamp_min(LeastShare) + LeastShare;
        var logarithm = alpha.log();
        return ((variance.sqrt() * drawn.Shares) + logarithm - logarithm.mean()).softmax(-1);
    }

    private MonteCloraDraw Draw(Generator? generator)
    {
        var rank = A.Shape[0];
        return new MonteCloraDraw(Normal(_settings.Samples, Layer.Inputs, rank), Normal(rank, rank).square().sum(1), Normal(_settings.Samples));

        Tensor Normal(params long[] shape) => empty(shape, ScalarType.Float32, Layer.Device).normal_(0, 1, generator);
    }

    private void Remember(Tensor variance, Tensor shares)
    {
        using var noGradients = no_grad();
        _lastVariance.Data.copy_(variance.diag());
        _lastShares.Data.copy_(shares);
    }
}
