using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.UniLora;

/// <summary>
/// Uni-LoRA (Li et al. 2025): every entry of every layer's LoRA factors is one of a short vector's, chosen at random, so that this vector is all that is trained.
/// Defaults are PEFT's.
/// </summary>
[ConfigWithout("exclude_modules")]
public sealed record UniLoraConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "UNILORA";

    /// <summary>Rank of the factors. It costs no trained parameter.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 4;

    /// <summary>Seed of the choice.</summary>
    [ConfigField("proj_seed", Parameter = "ProjectionSeed", Minimum = 0)]
    public int ProjectionSeed { get; init; } = 42;

    /// <summary>Length of the vector that is trained.</summary>
    [ConfigField("theta_d_length", Parameter = "VectorLength", Minimum = 1, ErrorId = "RankInvalid")]
    public int VectorLength { get; init; } = 256;

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [ConfigField("unilora_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>unilora_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "unilora_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Bound of the uniform distribution with which the vector starts.</summary>
    [ConfigField("init_theta_d_bound", Parameter = "InitialBound", IsReal = true, Minimum = double.Epsilon)]
    public double InitialBound { get; init; } = 0.02;

    /// <summary>Whether the vector starts small; false starts it with a deviation of 1, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartSmall { get; init; } = true;

    /// <summary>Saves the choice with the adapter; without it, it is drawn again from the seed, as NumPy draws it.</summary>
    [ConfigField("save_indices")]
    public bool SaveIndices { get; init; }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new UniLoraAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear ? new UniLoraLayer(layer, this, (UniLoraAdapter)adapter) : throw KindRefused(layer);
}

/// <summary>Uni-LoRA on a model, with the vector that its layers share.</summary>
public sealed class UniLoraAdapter(string name, UniLoraConfig config) : LayerwiseAdapter(name, config)
{
    private readonly UniLoraConfig _config = config;

    /// <summary>[length].</summary>
    internal Parameter Vector { get; } = new("unilora_theta_d", [config.VectorLength]);

    /// <inheritdoc/>
    public override void Initialise(Generator generator, Predicate<Parameter> needed)
    {
        ArgumentNullException.ThrowIfNull(needed);
        if (needed(Vector))
        {
            Vector.Assign(_config.StartSmall
                ? RandomTensors.Uniform(Vector.Shape, _config.InitialBound, generator, Device)
                : RandomTensors.Normal(Vector.Shape, 1, generator, Device));
        }

        if (Layers.Any(layer => layer.Adapter.Parameters.Any(parameter => needed(parameter.Parameter))))
        {
            Distribute();
        }

        base.Initialise(generator, needed);
    }

    /// <inheritdoc/>
    protected override void DeclareShared(IReadOnlyList<IAdaptable> targets)
    {
        // A parameter of several modules has the name of the first in PyTorch's lists.
        ArgumentNullException.ThrowIfNull(targets);
        Shared.Add(new AdapterParameter(KeyOf(targets[0].Path, "unilora_theta_d"), Vector) { FileKey = "base_model.unilora_theta_d" });
    }

    /// <summary>Every entry of the vector stands in equally many places, shuffled over all factors, and is divided by the root of their number.</summary>
    private void Distribute()
    {
        using var scope = NewDisposeScope();
        Parameter[] places = [.. Layers.SelectMany(static layer => ((UniLoraLayer)layer.Adapter).Places)];
        var length = _config.VectorLength;
        var total = places.Sum(static place => place.Count);
        var (times, rest) = (total / length, (int)(total % length));
        var random = new NumpyGenerator((uint)_config.ProjectionSeed);
        var chosen = new long[total];
        for (var i = 0L; i < times * length; i++)
        {
            chosen[i] = i / times;
        }

        random.Choose(length, rest).CopyTo(chosen, times * length);
        random.Shuffle(chosen);
        var counts = new float[length];
        foreach (var entry in chosen)
        {
            counts[entry]++;
        }

        var factors = tensor(counts).rsqrt();
        var start = 0L;
        foreach (var (_, adapter) in Layers)
        {
            var layer = (UniLoraLayer)adapter;
            for (var i = 0; i < layer.Places.Count; i++)
            {
                var place = layer.Places[i];
                var own = tensor(chosen.AsSpan((int)start, (int)place.Count).ToArray());
                start += place.Count;
                layer.Scales[i].Assign(factors.index_select(0, own).view([.. place.Shape]).to(Device).MoveToOuterDisposeScope());
                place.Assign(own.view([.. place.Shape]).to(Device).MoveToOuterDisposeScope());
            }
        }
    }
}

/// <summary>Which entry of the vector stands where in the factors of one layer, and what it is multiplied by there.</summary>
internal sealed class UniLoraLayer : FactorLayer
{
    private readonly UniLoraAdapter _shared;

    /// <summary>Makes the places, by shape alone: [rank, in] and [out, rank].</summary>
    public UniLoraLayer(IAdaptable layer, UniLoraConfig config, UniLoraAdapter shared)
        : base(layer, 1, config.Dropout)
    {
        _shared = shared;
        long[][] shapes = [[config.Rank, layer.Inputs], [layer.Outputs, config.Rank]];
        Places = [.. shapes.Select(static shape => new Parameter("indices", shape, ScalarType.Int64))];
        Scales = [.. shapes.Select(static shape => new Parameter("scales", shape))];
        var (index, scale) = config.SaveIndices ? (ParameterRole.Index, ParameterRole.Frozen) : (ParameterRole.Derived, ParameterRole.Derived);
        Parameters =
        [
            new("unilora_indices_A", Places[0], index), new("unilora_indices_B", Places[1], index),
            new("unilora_scales_A", Scales[0], scale), new("unilora_scales_B", Scales[1], scale),
        ];
    }

    /// <summary>Those of A and of B.</summary>
    public IReadOnlyList<Parameter> Places { get; }

    /// <summary>Those of A and of B.</summary>
    public IReadOnlyList<Parameter> Scales { get; }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override IEnumerable<Parameter> Reads(ForwardContext context) => [_shared.Vector];

    /// <summary>The adapter does it for all layers at once.</summary>
    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
    }

    /// <inheritdoc/>
    protected override (Tensor A, Tensor B) Factors(ScalarType type) => (Factor(0).to(type), Factor(1).to(type));

    private Tensor Factor(int index) =>
        _shared.Vector.Data.index_select(0, Places[index].Data.flatten()).view([.. Places[index].Shape]) * Scales[index].Data;
}
