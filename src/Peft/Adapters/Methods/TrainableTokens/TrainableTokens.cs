using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;

namespace Peft.Adapters.Methods.TrainableTokens;

/// <summary>
/// Trains the vectors of some tokens and nothing else: new tokens are taught to a model without training its whole embeddings.
/// Where the output layer shares the embeddings' weight, it shares the new vectors. Defaults are PEFT's.
/// </summary>
[ConfigWithout("exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save")]
public sealed record TrainableTokensConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "TRAINABLE_TOKENS";

    /// <summary>Ids of the tokens whose vectors are trained.</summary>
    [ConfigField("token_indices", Parameter = "TokenIndex")]
    public IReadOnlyList<int> TokenIndices { get; init; } = [];

    /// <summary>Whether the vectors start as the base's own; false starts them at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAsBase { get; init; } = true;

    /// <inheritdoc/>
    internal override bool SavesEmbeddings => false;

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new TrainableTokensAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not (Embedding or Linear { IsTransposed: false }))
        {
            throw KindRefused(layer);
        }

        // Those who share a weight share the vectors, whichever comes first.
        var owner = layer.Weight.TiedTo ?? layer.Weight;
        var earlier = adapter.Layers.Select(static adapted => adapted.Adapter).OfType<TokenRowsLayer>()
            .FirstOrDefault(other => (other.Layer.Weight.TiedTo ?? other.Layer.Weight) == owner);
        return new TokenRowsLayer(layer, TokenIndices, earlier?.Rows ?? TokenRowsLayer.Vectors(layer, TokenIndices), "trainable_tokens_delta", startsRandom: !StartAsBase);
    }
}

/// <summary>Trained vectors of tokens on a model.</summary>
public sealed class TrainableTokensAdapter(string name, TrainableTokensConfig config) : LayerwiseAdapter(name, config)
{
    /// <inheritdoc/>
    public override void Declare(PretrainedModel model, ICollection<string> messages)
    {
        Config = Config with { TargetModules = Config.TargetModules ?? ModuleNames.Matching(model.Backbone.TokenEmbeddings?.Path ?? "embed_tokens"), EnsureWeightTying = true };
        base.Declare(model, messages);
    }
}
