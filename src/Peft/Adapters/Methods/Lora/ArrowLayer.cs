using System.Text.Json.Serialization;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>How Arrow routes.</summary>
public sealed record ArrowSettings
{
    /// <summary>Adapters that act on a token.</summary>
    [JsonPropertyName("top_k")]
    public int Count { get; init; } = 3;

    /// <summary>Temperature of their shares.</summary>
    [JsonPropertyName("router_temperature")]
    public double Temperature { get; init; } = 1;

    /// <summary>Whether the mean of the general adapters is taken out of each (general knowledge subtraction).</summary>
    [JsonPropertyName("use_gks")]
    public bool SubtractsGeneral { get; init; }

    /// <summary>Names of the adapters to choose from, which the model has under these names; null for all its LoRA adapters on a layer but the general ones.</summary>
    [JsonPropertyName("task_adapter_names")]
    public IReadOnlyList<string>? Experts { get; init; }

    /// <summary>Names of the general adapters.</summary>
    [JsonPropertyName("gks_adapter_names")]
    public IReadOnlyList<string>? General { get; init; }

    /// <summary>Seed of the iteration that finds an adapter's direction.</summary>
    [JsonPropertyName("rng_seed")]
    public long? Seed { get; init; }

    /// <summary>Refuses settings that route nothing.</summary>
    /// <exception cref="PeftException"><c>AdapterConfigContradictory</c>.</exception>
    internal void Validate()
    {
        if (Count <= 0 || !(Temperature > 0))
        {
            throw new PeftException("AdapterConfigContradictory", FormattableString.Invariant($"arrow_config needs a top_k and a router_temperature above 0, not {Count} and {Temperature}."))
            {
                Target = "arrow_config",
                RecommendedAction = "Leave them out for PEFT's defaults, 3 and 1.",
            };
        }
    }
}

/// <summary>
/// Arrow (Ostapenko et al. 2024): an adapter that changes nothing itself but chooses, token by token, among the LoRA adapters that are beside it on the layer: those whose
/// leading input direction the token is most along. Nothing is trained. General knowledge subtraction (Bassi et al. 2025) takes the mean of general adapters out first.
/// </summary>
/// <param name="layer">The layer.</param>
/// <param name="config">The configuration.</param>
/// <param name="settings">How it routes.</param>
/// <param name="name">The adapter's own name.</param>
internal sealed class ArrowLayer(IAdaptable layer, LoraConfig config, ArrowSettings settings, string name) : LoraLayer(layer, config)
{
    private const int Iterations = 15;
    private const double Epsilon = 1e-8;
    private const string GeneralPrefix = "gks_";

    private Known? _known;

    /// <summary>The experts' directions as the last pass had them; null before the first.</summary>
    internal Tensor? LastDirections => _known?.Directions;

    /// <inheritdoc/>
    public override bool RowSelectable => false;

    /// <inheritdoc/>
    public override string? MergeObstacle => "it chooses adapters token by token (arrow_config)";

    /// <inheritdoc/>
    public override LowRank? LowRank(float weight) => null;

    /// <inheritdoc/>
    public override IEnumerable<Parameter> Reads(ForwardContext context) => [];

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var experts = Experts(call.Slot);
        LoraLayer[] general = settings.SubtractsGeneral ? [.. (settings.General ?? []).Select(call.Slot.Layer<LoraLayer>).OfType<LoraLayer>()] : [];
        var (a, b) = Factors(experts, general);
        var tokens = x.reshape(-1, x.size(-1)).to(ScalarType.Float32);
        var shares = Shares(tokens, Directions([.. experts, .. general], a, b));
        var change = zeros([tokens.size(0), Layer.Outputs], ScalarType.Float32, y.device);
        for (var i = 0; i < experts.Count; i++)
        {
            change.add_(tokens.mm(a[i].t()).mm(b[i].t()).mul_(shares.narrow(1, i, 1)), alpha: experts[i].ChangeScale);
        }

        return y + (Dropped(change, call, out _).to(y.dtype).view_as(y) * call.Weight);
    }

    private List<LoraLayer> Experts(AdapterSlot slot)
    {
        var names = settings.Experts ?? [.. slot.Names.Where(other => other != name && !other.StartsWith(GeneralPrefix, StringComparison.Ordinal) && slot[other] is LoraLayer)];
        List<LoraLayer> experts = [.. names.Select(slot.Layer<LoraLayer>).OfType<LoraLayer>()];
        return experts.Count == names.Count && experts.Count > 0 && experts.Count >= settings.Count && experts.TrueForAll(expert => expert.A.Shape.SequenceEqual(experts[0].A.Shape))
            ? experts
            : throw new PeftException("ArrowExpertsMissing", $"'{name}' routes {settings.Count} of the adapters {string.Join(", ", names)} on '{Layer.Path}', which has {(experts.Count == 0 ? "none of them" : string.Join(", ", slot.Names.Where(other => slot[other] is LoraLayer && other != name)))}, or they differ in rank.")
            {
                Target = Layer.Path,
                RecommendedAction = "Load the LoRA adapters that arrow_config names first, each under its name there (task_0, task_1, …), all of one rank and with the same targets.",
            };
    }

    /// <inheritdoc/>
    private protected override void Release() => _known?.Directions.Dispose();

    private static (Tensor[] A, Tensor[] B) Factors(List<LoraLayer> experts, LoraLayer[] general)
    {
        Tensor[] a = [.. experts.Select(static expert => expert.A.Data)], b = [.. experts.Select(static expert => expert.B.Data)];
        if (general.Length == 0)
        {
            return (a, b);
        }

        var (meanA, meanB) = (stack([.. general.Select(static layer => layer.A.Data)], 0).mean([0]), stack([.. general.Select(static layer => layer.B.Data)], 0).mean([0]));
        return ([.. a.Select(own => own - meanA)], [.. b.Select(own => own - meanB)]);
    }

    /// <summary>The share of each expert in each token, [tokens, experts]; zero but for the chosen ones.</summary>
    private Tensor Shares(Tensor tokens, Tensor directions)
    {
        using var noGradients = no_grad();
        var along = tokens.mm(directions.t()).abs();
        var (values, indexes) = along.topk(settings.Count, 1);
        return full_like(along, double.NegativeInfinity).scatter_(1, indexes, values).div_(settings.Temperature).softmax(1);
    }

    /// <summary>The experts' directions, [experts, in]: those of the last pass, as long as they are the same experts with the same weights.</summary>
    private Tensor Directions(LoraLayer[] of, Tensor[] a, Tensor[] b)
    {
        int[] versions = [.. of.SelectMany(static layer => (int[])[layer.A.Version, layer.B.Version])];
        if (_known is { } known && known.Of.SequenceEqual(of) && known.Versions.SequenceEqual(versions))
        {
            return known.Directions;
        }

        using var noGradients = no_grad();
        _known?.Directions.Dispose();
        _known = new Known(of, versions, stack([.. a.Zip(b, Direction)], 0).DetachFromDisposeScope());
        return _known.Directions;
    }

    /// <summary>The input direction that B · A changes most, by PEFT's iteration from its start: what it has after so many rounds is what routes.</summary>
    private Tensor Direction(Tensor a, Tensor b)
    {
        var inner = b.t().mm(b);
        using var generator = settings.Seed is { } seed ? new Generator((ulong)seed) : new Generator(0);
        var direction = randn([a.size(1)], ScalarType.Float32, generator: generator).to(a.device).unsqueeze_(1);
        direction = direction / (direction.norm() + Epsilon);
        for (var i = 0; i < Iterations; i++)
        {
            var next = a.t().mm(inner.mm(a.mm(direction)));
            direction = next / (next.norm() + Epsilon);
        }

        return direction.squeeze(1);
    }

    /// <summary>Directions that were found.</summary>
    /// <param name="Of">The experts' layers, and those of the general adapters.</param>
    /// <param name="Versions">What version of their factors they are of.</param>
    /// <param name="Directions">[experts, in].</param>
    private sealed record Known(LoraLayer[] Of, int[] Versions, Tensor Directions);
}
