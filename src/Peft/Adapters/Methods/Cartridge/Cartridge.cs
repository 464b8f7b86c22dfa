using Peft.Adapters.Combination;
using Peft.Adapters.Configuration;
using Peft.Adapters.Methods.Prompts;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Cartridge;

/// <summary>
/// Cartridges (Eyuboglu et al. 2025): keys and values in front of those of each layer, trained as they stand, of which the first may stay as they began; several are joined
/// one behind the other. Defaults are PEFT's.
/// </summary>
public sealed record CartridgeConfig : PrefixConfig
{
    /// <inheritdoc/>
    public override string PeftType => "CARTRIDGE";

    /// <summary>Virtual tokens at the start that are never trained: attention rests on the first ones of a row.</summary>
    [ConfigField("num_frozen_tokens", Parameter = "FrozenTokenCount", Minimum = 0, ErrorId = "VirtualTokensInvalid")]
    public int FrozenTokens { get; init; } = 1;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (FrozenTokens > VirtualTokens)
        {
            throw new PeftException("VirtualTokensInvalid", $"num_frozen_tokens is {FrozenTokens}, more than the {VirtualTokens} virtual tokens that there are.") { Target = "num_frozen_tokens" };
        }
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new CartridgeAdapter(name, this);
}

/// <summary>A cartridge on a model: a file holds one table, of which the first rows are frozen and the others trained.</summary>
public sealed class CartridgeAdapter(string name, CartridgeConfig config) : PrefixAdapter(name, config)
{
    private Parameter _frozen = null!;
    private Parameter _trained = null!;

    /// <inheritdoc/>
    public override long UntrainedCount => _frozen.Count;

    /// <inheritdoc/>
    public override void Initialise(Generator generator, Predicate<Parameter> needed)
    {
        ArgumentNullException.ThrowIfNull(needed);
        base.Initialise(generator, needed);
        if (needed(Table))
        {
            OnLoaded();
        }
    }

    /// <inheritdoc/>
    public override void OnLoaded()
    {
        var frozen = _frozen.Shape[0];
        _frozen.Assign(Table.Data.narrow(0, 0, frozen).clone());
        _trained.Assign(Table.Data.narrow(0, frozen, _trained.Shape[0]).clone());
    }

    /// <inheritdoc/>
    public override Tensor Saved(Parameter parameter) => parameter == Table ? Rows() : base.Saved(parameter);

    /// <inheritdoc/>
    public override AdapterConfig CombinedConfig(IReadOnlyList<AdapterPart> parts, CombinationOptions options)
    {
        ArgumentNullException.ThrowIfNull(parts);
        ArgumentNullException.ThrowIfNull(options);
        if (options.Type != CombinationType.Cat && parts.Count > 1)
        {
            return base.CombinedConfig(parts, options);
        }

        return parts.All(static part => part.Weight == 1)
            ? (CartridgeConfig)Config with { VirtualTokens = parts.Sum(static part => ((CartridgeAdapter)part.Adapter).Config.VirtualTokens) }
            : throw new PeftException("CombinationInvalid", "Cartridges stand one behind the other, each as it is.")
            {
                Target = Name,
                RecommendedAction = "Leave the weights out, or give 1 for each.",
            };
    }

    /// <inheritdoc/>
    public override void Combine(IReadOnlyList<AdapterPart> parts, CombinationOptions options, Generator generator, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(parts);
        base.Combine(parts, options, generator, cancellation);
        Table.Assign(cat([.. parts.Select(static part => ((CartridgeAdapter)part.Adapter).Rows())], 0).MoveToOuterDisposeScope());
        OnLoaded();
    }

    private protected override void DeclareTable()
    {
        var (frozen, all) = (((CartridgeConfig)Config).FrozenTokens, Table.Shape[0]);
        _frozen = new Parameter("frozen_embedding", [frozen, RowWidth]);
        _trained = new Parameter("trainable_embedding", [all - frozen, RowWidth]);
        Shared.Add(new AdapterParameter(TableKey, Table, ParameterRole.Frozen));
        Shared.Add(new AdapterParameter("prompt_encoder.frozen_embedding", _frozen, ParameterRole.Frozen) { FileKey = null });
        Shared.Add(new AdapterParameter("prompt_encoder.trainable_embedding", _trained) { FileKey = null });
    }

    private protected override Tensor Values(ForwardContext pass) => OnTape(pass, _ => Rows(), [], [_trained]);

    private Tensor Rows() => cat([_frozen.Data, _trained.Data], 0);
}
