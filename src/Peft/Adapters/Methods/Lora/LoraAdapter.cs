using Peft.Adapters.Combination;
using Peft.Adapters.Methods.TrainableTokens;
using Peft.Models;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>LoRA on a model: a pair of factors for each targeted layer, several of which combine into one.</summary>
public sealed class LoraAdapter(string name, LoraConfig config) : LayerwiseAdapter(name, config)
{
    private const string TokensName = "token_adapter";

    private IReadOnlyList<SharedFactors> _shared = [];

    /// <inheritdoc/>
    internal override bool SharesPasses => base.SharesPasses && ((LoraConfig)Config).InvocationTokens is not { Count: > 0 };

    /// <inheritdoc/>
    public override void Declare(PretrainedModel model, ICollection<string> messages)
    {
        base.Declare(model, messages);
        _shared = Config.EnsureWeightTying ? SharedFactors.Of(Layers) : [];
        if (((LoraConfig)Config).TrainableTokens is not { } tokens)
        {
            return;
        }

        var path = model.Backbone.TokenEmbeddings?.Path ?? "embed_tokens";
        if (tokens.ByModule is null && Overlays.Any(overlay => overlay.Targets.Any(target => target.Path == path)))
        {
            messages.Add($"'{path}' is trained in full, with the tokens of trainable_token_indices.");
            return;
        }

        DeclareTokens(tokens.ByModule ?? new Dictionary<string, IReadOnlyList<int>> { [path] = tokens.OfEmbeddings! }, model);
    }

    /// <inheritdoc/>
    public override void Initialise(torch.Generator generator, Predicate<Parameter> needed)
    {
        base.Initialise(generator, needed);
        foreach (var shared in _shared)
        {
            shared.Start(needed);
        }

        // What data decided is the layers' now.
        Config = (LoraConfig)Config with { Start = null };
    }

    /// <inheritdoc/>
    internal override void RefuseNew()
    {
        foreach (var shared in _shared)
        {
            shared.RefuseUnfit();
        }
    }

    /// <inheritdoc/>
    public override void OnGradients(int step)
    {
        using var noGradients = no_grad();
        foreach (var shared in _shared)
        {
            shared.SumGradients();
        }
    }

    /// <inheritdoc/>
    public override bool OnStepped(int step)
    {
        using var noGradients = no_grad();
        foreach (var shared in _shared)
        {
            shared.Follow();
        }

        return false;
    }

    /// <summary>MonteCLoRA's mean divergence from its priors, in training.</summary>
    public override Tensor Loss(Tensor loss, ForwardContext pass)
    {
        MonteCloraLayer[] drawn = pass.IsTraining ? [.. Layers.Select(static layer => layer.Adapter).OfType<MonteCloraLayer>()] : [];
        return drawn.Length == 0 ? loss
            : pass.Tape is { } tape ? tape.Autograd(inputs => WithTerms(inputs[0]), [loss], [.. drawn.SelectMany(static layer => layer.Priors)])
            : WithTerms(loss);

        Tensor WithTerms(Tensor own) => drawn.Select(static layer => layer.Term()).OfType<Tensor>().Aggregate(own, (sum, term) => sum + (term / drawn.Length));
    }

    /// <summary>A pass says where activated LoRA acts once its tokens are known.</summary>
    public override ForwardContext Prepare(ForwardContext pass) => ((LoraConfig)Config).InvocationTokens is { Count: > 0 } tokens
        ? pass with { OnTokens = (ids, known) => Activated(tokens, ids, pass.OnTokens?.Invoke(ids, known) ?? known) }
        : pass;

    private ForwardContext Activated(IReadOnlyList<int> tokens, Tensor ids, ForwardContext pass)
    {
        // Of a packed row each example by itself.
        var acts = pass.Packing is { } packing
            ? cat([.. packing.Select((lengths, row) => cat([.. Parts(ids.narrow(0, row, 1), lengths).Select(part => ActivatedLoraLayer.Find(tokens, part))], 1))], 0)
            : ActivatedLoraLayer.Find(tokens, ids).narrow(1, ids.size(1) - pass.Length, pass.Length);
        pass.Tape?.Share(acts);
        return pass with { Activations = new Dictionary<string, Tensor>(pass.Activations) { [Name] = acts } };
    }

    private static IEnumerable<Tensor> Parts(Tensor row, IReadOnlyList<int> lengths)
    {
        long start = 0;
        foreach (var length in lengths)
        {
            yield return row.narrow(1, start, length);
            start += length;
        }

        yield return row.narrow(1, start, row.size(1) - start);
    }

    /// <inheritdoc/>
    public override AdapterConfig CombinedConfig(IReadOnlyList<AdapterPart> parts, CombinationOptions options) => LoraCombination.Config(parts, options) with { Bias = CombinedBias(parts) };

    /// <inheritdoc/>
    public override void Combine(IReadOnlyList<AdapterPart> parts, CombinationOptions options, torch.Generator generator, CancellationToken cancellation)
    {
        base.Combine(parts, options, generator, cancellation);
        var combination = new LoraCombination(parts, options, generator);
        foreach (var (layer, adapter) in Layers)
        {
            cancellation.ThrowIfCancellationRequested();
            combination.Fill(layer.Path, adapter.LowRank(1)!);
        }
    }

    /// <summary>Vectors of tokens: a module of its own each, but layers that share their weight, and of which none has other tokens, share the first one's.</summary>
    private void DeclareTokens(IReadOnlyDictionary<string, IReadOnlyList<int>> tokens, PretrainedModel model)
    {
        var named = model.NamedParameters().ToArray();
        List<TokenRowsLayer> made = [];
        foreach (var (module, indices) in model.Descendants()
            .Select(module => (Module: module, Indices: tokens.FirstOrDefault(entry => module.Path.EndsWith(entry.Key, StringComparison.Ordinal)).Value))
            .Where(static match => match.Indices is not null))
        {
            Put(module as IAdaptable ?? throw Config.KindRefused(module, module.Path), indices);
        }

        foreach (var name in tokens.Keys.Where(name => !made.Exists(layer => layer.Layer.Path.EndsWith(name, StringComparison.Ordinal))))
        {
            throw new PeftException("NoModuleMatched", $"No module of the model matches '{name}' of trainable_token_indices.")
            {
                Target = name,
                RecommendedAction = "Name a module that has a row for each token, such as embed_tokens; Get-ModelModule lists them.",
            };
        }

        foreach (var layer in made.ToArray())
        {
            foreach (var partner in Sharing(layer.Layer.Weight, named).Where(partner => !made.Exists(other => other.Layer.Weight == partner.Parameter)))
            {
                Put((IAdaptable)partner.Module, layer.Indices);
            }
        }

        void Put(IAdaptable layer, IReadOnlyList<int> indices)
        {
            if (layer is not (Embedding or Linear { IsTransposed: false }))
            {
                throw Config.KindRefused(layer.Module, layer.Path);
            }

            if (Layers.Any(other => other.Layer.Weight == layer.Weight) || Overlays.Any(overlay => overlay.Targets.Any(target => target.Parameter == layer.Weight)))
            {
                throw new PeftException("AdapterConfigContradictory", $"'{layer.Path}' is adapted or trained in full already: trainable_token_indices can't name it too.") { Target = layer.Path };
            }

            var shared = made.Find(other => Owner(other.Layer) == Owner(layer) && other.Indices.SequenceEqual(indices));
            var rows = new TokenRowsLayer(layer, indices, shared?.Rows ?? TokenRowsLayer.Vectors(layer, indices), "trainable_tokens_delta", isSaved: shared is null);
            made.Add(rows);
            AddLayer(new AdaptedLayer(layer, rows) { Path = $"{layer.Path}.{TokensName}" });
        }
    }

    private static Parameter Owner(IAdaptable layer) => layer.Weight.TiedTo ?? layer.Weight;
}
