using System.Text.RegularExpressions;
using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Osf;

/// <summary>
/// OSF (Nayak et al. 2025): all but the leading singular vectors of the weight are trained, in directions that leave the leading ones alone, so that what the
/// model knows stays. Defaults are PEFT's.
/// </summary>
[ConfigWithout("exclude_modules", "layers_to_transform", "layers_pattern")]
[ConfigVariant("target_svd_config", IsIdle = true)]
public sealed record OsfConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "OSF";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.Blocks;

    /// <summary>Singular vectors that stay: a number, or a share below 1 of all; half of them where nothing is said.</summary>
    [ConfigField("effective_rank", Minimum = double.Epsilon, ErrorId = "RankInvalid")]
    public double? EffectiveRank { get; init; }

    /// <summary>Other numbers or shares for some modules: a table of regular expression, found anywhere in the path, to number; the first that matches counts.</summary>
    [ConfigField("rank_pattern", Minimum = 0, ErrorId = "RankInvalid")]
    public IReadOnlyDictionary<string, double>? RankPattern { get; init; }

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear ? new OsfLayer(layer, this, RankOf(layer)) : throw KindRefused(layer);

    private long RankOf(IAdaptable layer)
    {
        var total = Math.Min(layer.Inputs, layer.Outputs);
        var asked = RankPattern?.FirstOrDefault(entry => Regex.IsMatch(layer.Path, entry.Key, RegexOptions.CultureInvariant, TimeSpan.FromSeconds(1))).Value is { } own and > 0 ? own : EffectiveRank;
        var rank = asked is not { } value ? total / 2 : value < 1 ? (long)(total * value) : Math.Min(total, (long)value);
        return rank > 0 && rank < total ? rank : throw new PeftException("RankInvalid", $"effective_rank leaves {rank} of the {total} singular vectors of '{layer.Path}' as they are.")
        {
            Target = layer.Path,
            RecommendedAction = "Give a number between 1 and one less than the layer's singular vectors.",
        };
    }
}

/// <summary>The singular vectors and values of one layer that are trained: change = U S V - U₀ S₀ V₀, with those of the base.</summary>
internal sealed class OsfLayer : FactorLayer
{
    private readonly bool _startsAtZero;
    private readonly long _kept;
    private readonly Parameter[] _trained;
    private readonly Parameter[] _first;
    private readonly Parameter _leading;

    /// <summary>Makes the parameters, by shape alone: U [out, n], S [n], V [n, in], and the leading vectors of the longer side.</summary>
    public OsfLayer(IAdaptable layer, OsfConfig config, long kept)
        : base(layer, 1, 0)
    {
        _startsAtZero = config.StartAtZero;
        _kept = kept;
        var rest = Math.Min(layer.Inputs, layer.Outputs) - kept;
        (string Name, long[] Shape)[] parts = [("U_low", [layer.Outputs, rest]), ("S_low", [rest]), ("V_low", [rest, layer.Inputs])];
        _trained = [.. parts.Select(static part => new Parameter(part.Name, part.Shape))];
        _first = [.. parts.Select(static part => new Parameter(part.Name, part.Shape))];
        _leading = new Parameter("high", IsTall ? [layer.Outputs, kept] : [kept, layer.Inputs]);
        Parameters =
        [
            .. _trained.Select(static part => new LayerParameter($"osf_svd_params.{part.Name}", part)),
            .. _first.Select(static part => new LayerParameter($"_osf_{part.Name}_init", part, ParameterRole.Derived)),
            new(IsTall ? "_osf_U_high" : "_osf_V_high", _leading, ParameterRole.Derived),
        ];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <summary>Whether there are more outputs than inputs: the vectors of the outputs then don't span them all.</summary>
    private bool IsTall => Layer.Outputs > Layer.Inputs;

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        using var scope = NewDisposeScope();
        var (u, s, vh) = linalg.svd(Layer.ToMatrix(Layer.Weight.Unpacked(ScalarType.Float32)), fullMatrices: false);
        var rest = s.size(0) - _kept;
        Tensor[] low = [u.narrow(1, _kept, rest), s.narrow(0, _kept, rest), vh.narrow(0, _kept, rest)];
        for (var i = 0; i < low.Length; i++)
        {
            _first[i].Assign(low[i].clone().contiguous().MoveToOuterDisposeScope());
            _trained[i].Assign((_startsAtZero ? low[i].clone().contiguous() : RandomTensors.Normal(_trained[i].Shape, 1, generator, Layer.Device)).MoveToOuterDisposeScope());
        }

        _leading.Assign((IsTall ? u.narrow(1, 0, _kept) : vh.narrow(0, 0, _kept)).clone().contiguous().MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    protected override (Tensor A, Tensor B) Factors(ScalarType type)
    {
        var (u, s, v) = (Constrained(_trained[0], AlongOutputs), _trained[1].Data, Constrained(_trained[2], AlongInputs));
        var (u0, s0, v0) = (_first[0].Data, _first[1].Data, _first[2].Data);
        return (cat([v, v0], 0).to(type), cat([u * s, -(u0 * s0)], 1).to(type));
    }

    /// <summary>The parameter, whose gradient is what a projection leaves of it.</summary>
    private static Tensor Constrained(Parameter parameter, Func<Tensor, Tensor> project)
    {
        var fixedValue = parameter.Data.detach();
        return fixedValue + project(parameter.Data - fixedValue);
    }

    /// <summary>Takes out what the leading vectors span; where these and the first span everything, keeps what the first span.</summary>
    private Tensor AlongOutputs(Tensor gradient) => IsTall
        ? gradient - _leading.Data.mm(_leading.Data.t().mm(gradient))
        : _first[0].Data.mm(_first[0].Data.t().mm(gradient));

    private Tensor AlongInputs(Tensor gradient) => Layer.Outputs < Layer.Inputs
        ? gradient - gradient.mm(_leading.Data.t()).mm(_leading.Data)
        : gradient.mm(_first[2].Data.t()).mm(_first[2].Data);
}
