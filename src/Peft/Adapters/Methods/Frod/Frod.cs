using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Frod;

/// <summary>
/// FRoD (2026): layers that play the same part in their blocks share a basis over their inputs, in which each weight is U Λ Vᵀ; Λ is trained, and with it a few entries
/// beside its diagonal, which turn. Defaults are PEFT's.
/// </summary>
[ConfigWithout("exclude_modules")]
[ConfigVariant("progressbar", "true", IsIdle = true)]
[ConfigVariant("runtime_offload_base_weight", "false", IsIdle = true)]
public sealed record FrodConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "FROD";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.LoraWith(("phi", ["q_proj", "v_proj"]), ("vit", ["query", "value"]));

    /// <summary>Seed of the places beside the diagonal.</summary>
    [ConfigField("projection_prng_key", Parameter = "ProjectionSeed", Minimum = 0)]
    public int ProjectionSeed { get; init; }

    /// <summary>Saves bases and places with the adapter; without it they are computed again from the base, which another processor or library may do otherwise.</summary>
    [ConfigField("save_projection")]
    public bool SaveProjection { get; init; } = true;

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [ConfigField("frod_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>frod_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "frod_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <summary>Share of the entries beside the diagonal that are trained.</summary>
    [ConfigField("sparse_rate", Minimum = 0, Maximum = 1, IsReal = true)]
    public double SparseRate { get; init; } = 0.01;

    /// <summary>Keeps the basis of layers that resemble each other computable.</summary>
    [ConfigField("regularization_alpha", Parameter = "Regularization", IsReal = true)]
    public double Regularisation { get; init; } = 1e-3;

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new FrodAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear ? new FrodLayer(layer, this, ((FrodAdapter)adapter).BasisOf(layer)) : throw KindRefused(layer);
}

/// <summary>FRoD on a model, with the bases that its layers share.</summary>
public sealed class FrodAdapter(string name, FrodConfig config) : LayerwiseAdapter(name, config)
{
    private readonly Dictionary<string, FrodBasis> _bases = new(StringComparer.Ordinal);
    private readonly HashSet<FrodLayer> _waiting = [];

    /// <summary>The basis of a layer.</summary>
    internal FrodBasis BasisOf(IAdaptable layer) => _bases[FrodBasis.Category(layer.Path)];

    /// <inheritdoc/>
    public override void Initialise(Generator generator, Predicate<Parameter> needed)
    {
        ArgumentNullException.ThrowIfNull(needed);
        using (var seeded = new Generator((ulong)config.ProjectionSeed))
        {
            // One generator for all places, drawn from in the order of the names, whichever of them are wanted.
            foreach (var (_, basis) in _bases.OrderBy(static entry => entry.Key, StringComparer.Ordinal))
            {
                basis.Initialise(config.Regularisation, seeded, needed);
            }
        }

        base.Initialise(generator, needed);
        _waiting.UnionWith(Layers.Select(static layer => (FrodLayer)layer.Adapter).Where(layer => layer.AwaitsBasis && needed(layer.Diagonal)));
    }

    /// <summary>What stands on the outputs' side follows from the weight and the basis that a file brought.</summary>
    /// <inheritdoc/>
    public override void OnLoaded()
    {
        foreach (var (_, adapter) in Layers)
        {
            ((FrodLayer)adapter).Derive(_waiting.Remove((FrodLayer)adapter));
        }
    }

    /// <inheritdoc/>
    protected override void DeclareShared(IReadOnlyList<IAdaptable> targets)
    {
        ArgumentNullException.ThrowIfNull(targets);
        foreach (var group in targets.GroupBy(static target => FrodBasis.Category(target.Path), StringComparer.Ordinal))
        {
            var basis = new FrodBasis([.. group], config.SparseRate);
            _bases.Add(group.Key, basis);
            AddShared("frod_V", group.Key, basis.Vectors, ParameterRole.Frozen);
            AddShared("frod_s_indices", group.Key, basis.Places, ParameterRole.Index);
            AddShared("frod_s_size", group.Key, basis.Size, ParameterRole.Index);
        }
    }

    private void AddShared(string kind, string category, Parameter parameter, ParameterRole saved)
    {
        var key = $"base_model.{kind}.{category}";
        Shared.Add(new AdapterParameter(key, parameter, config.SaveProjection ? saved : ParameterRole.Derived) { FileKey = config.SaveProjection ? key : null });
    }
}

/// <summary>What one layer trains: its weight becomes U (S + Λ) Vᵀ.</summary>
internal sealed class FrodLayer : LayerAdapter
{
    private readonly FrodConfig _config;
    private readonly FrodBasis _basis;
    private readonly Parameter _beside;
    private readonly Parameter _outputs;

    /// <summary>Makes the parameters, by shape alone: [in], [places] and U [out, in].</summary>
    public FrodLayer(IAdaptable layer, FrodConfig config, FrodBasis basis)
        : base(layer)
    {
        _config = config;
        _basis = basis;
        Diagonal = new Parameter("frod_lambda_l", [layer.Inputs]);
        _beside = new Parameter("frod_lambda_s_values", [basis.Places.Shape[1]]);
        _outputs = new Parameter("frod_U", [layer.Outputs, layer.Inputs]);
        Parameters = [new(Diagonal.Name, Diagonal), new(_beside.Name, _beside), new(_outputs.Name, _outputs, ParameterRole.Derived) { IsSaved = false }];
    }

    /// <summary>Λ, [in].</summary>
    public Parameter Diagonal { get; }

    /// <summary>Whether the basis isn't there yet: a file that is being read has it.</summary>
    public bool AwaitsBasis => !_basis.Vectors.IsLoaded;

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override IEnumerable<Parameter> Reads(ForwardContext context) => [Diagonal, _beside];

    /// <inheritdoc/>
    public override bool ActsInWeight(ForwardContext context) => !context.IsTraining || _config.Dropout == 0;

    /// <summary>A basis that a file holds isn't there yet: <see cref="Derive"/> follows then.</summary>
    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        _beside.Assign(_config.StartAtZero ? RandomTensors.Zeros(_beside.Shape, Layer.Device) : RandomTensors.Normal(_beside.Shape, 0.1, generator, Layer.Device));
        if (AwaitsBasis)
        {
            return;
        }

        Derive(asStart: true);
        if (!_config.StartAtZero)
        {
            Diagonal.Assign(Diagonal.Data.add(RandomTensors.Normal(Diagonal.Shape, 0.1, generator, Layer.Device)));
        }
    }

    /// <summary>
    /// Writes the weight in the basis, and keeps the directions of what stands on the outputs' side. In float64, for bases of layers that resemble each other are nearly
    /// singular.
    /// </summary>
    /// <param name="asStart">Whether the lengths become Λ.</param>
    internal void Derive(bool asStart)
    {
        using var scope = NewDisposeScope();
        var columns = _basis.Coordinates(Layer.ToMatrix(Layer.Weight.Unpacked(ScalarType.Float32)).cpu().to(ScalarType.Float64));
        var lengths = columns.square().sum([0]).sqrt();
        var directions = columns.div(lengths.clamp_min(1e-12));
        _outputs.Assign(directions.to(ScalarType.Float32).to(Layer.Device).MoveToOuterDisposeScope());
        if (asStart)
        {
            Diagonal.Assign(lengths.to(ScalarType.Float32).to(Layer.Device).MoveToOuterDisposeScope());
        }
    }

    /// <summary>In float32 whatever the base's type: rounded to less, three factors make another weight than the base's even before they are trained.</summary>
    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var input = x.to(ScalarType.Float32);
        input = call.Context.IsTraining && _config.Dropout > 0 ? input * RandomTensors.DropoutMask(input, _config.Dropout, call.Context.Generator) : input;
        var made = Layer.Project(Layer.Project(Layer.Project(input, _basis.Vectors.Data.t()), Middle()), _outputs.Data);
        return y + ((made - BaseProduct(input, call, ScalarType.Float32)) * call.Weight).to(y.dtype);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var made = _outputs.Data.mm(Middle()).mm(_basis.Vectors.Data.t()).to(current.Weight.dtype);
        current.Weight.add_(Layer.FromMatrix(made - Layer.ToMatrix(bare.Weight).to(current.Weight.dtype)));
        return current;
    }

    /// <summary>S + Λ, [in, in].</summary>
    private Tensor Middle()
    {
        var (size, places) = (Layer.Inputs, _basis.Places.Data);
        return zeros([size * size], device: Layer.Device).index_add(0, places[0].mul(size).add(places[1]), _beside.Data, 1).view(size, size) + Diagonal.Data.diag();
    }
}
