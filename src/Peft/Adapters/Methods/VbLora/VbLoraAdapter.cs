using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.VbLora;

/// <summary>VB-LoRA on a model, with the bank that its layers share.</summary>
public sealed class VbLoraAdapter(string name, VbLoraConfig config) : LayerwiseAdapter(name, config)
{
    private readonly VbLoraConfig _config = config;

    /// <summary>[vectors, length].</summary>
    internal Parameter Bank { get; } = new("vblora_vector_bank", [config.VectorCount, config.VectorLength]);

    /// <inheritdoc/>
    public override IReadOnlyList<AdapterParameter> Parameters() => _config.SavesOnlyTopK
        ? [.. base.Parameters().Select(parameter => IsLogits(parameter.Parameter) ? parameter with { FileKey = null } : parameter)]
        : base.Parameters();

    /// <inheritdoc/>
    public override void Initialise(Generator generator, Predicate<Parameter> needed)
    {
        ArgumentNullException.ThrowIfNull(needed);
        if (needed(Bank))
        {
            Bank.Assign(RandomTensors.Uniform(Bank.Shape, _config.InitialBankBound, generator, Device));
        }

        base.Initialise(generator, needed);
    }

    /// <inheritdoc/>
    public override void OnLoaded() => ForEach(static pieces => pieces.Expand());

    /// <inheritdoc/>
    public override void OnSaving() => ForEach(static pieces => pieces.Condense());

    /// <inheritdoc/>
    public override void OnTraining(int steps)
    {
        foreach (var pieces in Layers.SelectMany(static layer => ((VbLoraLayer)layer.Adapter).Pieces))
        {
            using var isLost = pieces.Logits.Data.isinf().any();
            if (isLost.item<bool>())
            {
                throw new PeftException("AdapterIncomplete", $"'{Name}' was saved with save_only_topk_weights: the logits that training would change are not in its file.")
                {
                    Target = Name,
                    RecommendedAction = "Resume the training from its checkpoint, or train a new adapter.",
                };
            }
        }
    }

    /// <inheritdoc/>
    protected override void DeclareShared(IReadOnlyList<IAdaptable> targets)
    {
        // A parameter of several modules has the name of the first in PyTorch's lists.
        ArgumentNullException.ThrowIfNull(targets);
        Shared.Add(new AdapterParameter(KeyOf(targets[0].Path, "vblora_vector_bank"), Bank) { FileKey = "base_model.vblora_vector_bank" });
    }

    private bool IsLogits(Parameter parameter) => Layers.Any(layer => ((VbLoraLayer)layer.Adapter).Pieces.Any(pieces => pieces.Logits == parameter));

    private void ForEach(Action<VectorMixture> action)
    {
        if (!_config.SavesOnlyTopK)
        {
            return;
        }

        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        foreach (var pieces in Layers.SelectMany(static layer => ((VbLoraLayer)layer.Adapter).Pieces))
        {
            action(pieces);
        }
    }
}

/// <summary>The mixtures of which one layer's factors are made.</summary>
internal sealed class VbLoraLayer : FactorLayer
{
    private readonly VbLoraConfig _config;
    private readonly VbLoraAdapter _shared;

    /// <summary>Makes the logits, by shape alone: [rank, in / length, vectors] and [out / length, rank, vectors].</summary>
    public VbLoraLayer(IAdaptable layer, VbLoraConfig config, VbLoraAdapter shared)
        : base(layer, 1, config.Dropout)
    {
        _config = config;
        _shared = shared;
        var length = config.VectorLength;
        Pieces =
        [
            new VectorMixture("vblora_logits_A", config.Rank, layer.Inputs / length, config),
            new VectorMixture("vblora_logits_B", layer.Outputs / length, config.Rank, config),
        ];
        Parameters = [.. Pieces.SelectMany(static pieces => pieces.Parameters)];
    }

    /// <summary>Those of A and of B.</summary>
    public IReadOnlyList<VectorMixture> Pieces { get; }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override IEnumerable<Parameter> Reads(ForwardContext context) => base.Reads(context).Append(_shared.Bank);

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        foreach (var pieces in Pieces)
        {
            pieces.Logits.Assign(RandomTensors.Normal(pieces.Logits.Shape, _config.InitialLogitsDeviation, generator, Layer.Device));
            pieces.Condense();
        }
    }

    /// <inheritdoc/>
    protected override (Tensor A, Tensor B) Factors(ScalarType type) => (
        Pieces[0].Mixed(_shared.Bank.Data).view(_config.Rank, -1).to(type),
        Pieces[1].Mixed(_shared.Bank.Data).transpose(1, 2).reshape(-1, _config.Rank).to(type));
}

/// <summary>Logits over the bank for each piece of a factor, and what of them goes into a file that holds the preferred vectors alone.</summary>
internal sealed class VectorMixture
{
    private readonly VbLoraConfig _config;
    private readonly Parameter? _chosen;
    private readonly Parameter? _weights;
    private int _condensed = -1;

    /// <summary>Makes the parameters, by shape alone.</summary>
    public VectorMixture(string key, long rows, long columns, VbLoraConfig config)
    {
        _config = config;
        Logits = new Parameter(key, [rows, columns, config.VectorCount]);
        Parameters = [new(key, Logits)];
        if (config.SavesOnlyTopK)
        {
            _chosen = new Parameter(key, [rows, columns, config.TopK], config.VectorCount < 1 << 8 ? ScalarType.Byte : config.VectorCount < 1 << 15 ? ScalarType.Int16 : ScalarType.Int32);
            _weights = new Parameter(key, [rows, columns, config.TopK - 1]);
            Parameters = [.. Parameters, new($"{key}_topk_indices", _chosen, ParameterRole.Index), new($"{key}_topk_weights", _weights, ParameterRole.Frozen)];
        }
    }

    /// <summary>[rows, columns, vectors].</summary>
    public Parameter Logits { get; }

    /// <summary>Everything, with keys.</summary>
    public IReadOnlyList<LayerParameter> Parameters { get; }

    /// <summary>The pieces [rows, columns, length]: of each the preferred vectors, weighted by the softmax of their logits.</summary>
    public Tensor Mixed(Tensor bank)
    {
        var (values, chosen) = Logits.Data.topk(_config.TopK, -1, true, true);
        var vectors = bank.index_select(0, chosen.flatten()).view([.. chosen.shape, _config.VectorLength]);
        return (values.softmax(-1).unsqueeze(-1) * vectors).sum(-2);
    }

    /// <summary>Brings what is saved up to date with the logits, where these have changed.</summary>
    public void Condense()
    {
        if (_chosen is not null && _condensed != Logits.Version)
        {
            var (values, chosen) = Logits.Data.topk(_config.TopK, -1, true, true);
            _chosen.Assign(chosen.to(_chosen.DataType));
            _weights!.Assign(values.softmax(-1).narrow(-1, 0, _config.TopK - 1).contiguous());
            _condensed = Logits.Version;
        }
    }

    /// <summary>Makes logits of what was saved: the logarithms of the weights, and -∞ for all other vectors.</summary>
    public void Expand()
    {
        var weights = cat([_weights!.Data, 1 - _weights.Data.sum(-1, keepdim: true)], -1);
        var none = full([.. Logits.Shape], double.NegativeInfinity, ScalarType.Float32, weights.device);
        Logits.Assign(none.scatter(-1, _chosen!.Data.to(ScalarType.Int64), weights.log()));
        _condensed = Logits.Version;
    }
}
