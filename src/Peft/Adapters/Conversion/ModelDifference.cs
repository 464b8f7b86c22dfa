using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Conversion;

/// <summary>What a model's weights have that another's haven't, as an adapter of the other.</summary>
/// <param name="model">The model before.</param>
/// <param name="tuned">The model after.</param>
/// <param name="options">How much is kept.</param>
internal sealed class ModelDifference(PeftModel model, PretrainedModel tuned, ConversionOptions options)
{
    private readonly List<LayerChange> _changes = [];
    private readonly Dictionary<Parameter, Tensor> _copies = [];
    private readonly List<string> _saved = [];
    private readonly HashSet<Module> _reached = [.. model.Base.AdaptableModules];
    private readonly SortedSet<string> _unreached = new(StringComparer.Ordinal);

    /// <summary>Makes the adapter.</summary>
    /// <param name="make">Makes an empty one of a configuration.</param>
    public PeftAdapter Build(Func<LoraConfig, PeftAdapter> make)
    {
        LowRankAdapter.RefuseStructure(model);
        var theirs = tuned.NamedParameters().ToDictionary(static named => named.Path, static named => named.Parameter, StringComparer.Ordinal);
        var own = model.Base.NamedParameters().ToArray();
        RefuseOthers(own, theirs);
        for (var i = 0; i < own.Length; i++)
        {
            options.Cancellation.ThrowIfCancellationRequested();
            Compare(own[i], theirs[own[i].Path]);
            options.OnProgress?.Invoke(i + 1, own.Length);
        }

        if (_changes.Count == 0)
        {
            throw new PeftException("AdapterConversionNotPossible", $"No layer's weight differs between '{model.Name}' and the other model: there is nothing to extract.")
            {
                Target = model.Name,
                RecommendedAction = "Check that the other model is the trained one.",
            };
        }

        var config = LowRankAdapter.Configure(null, _changes, model) with
        {
            Bias = _copies.Keys.Any(static parameter => parameter.Name == "bias") ? BiasTraining.All : BiasTraining.None,
            ModulesToSave = _saved.Count == 0 ? null : [.. _saved.Distinct(StringComparer.Ordinal)],
        };
        var made = LowRankAdapter.Fill(make(config), _changes, _copies);
        made.Conversion = made.Conversion! with { Unreached = Values.Of(_unreached) };
        return made;
    }

    private void Compare(NamedParameter own, Parameter theirs)
    {
        if (!own.Parameter.IsOwner)
        {
            return;
        }

        using var scope = NewDisposeScope();
        var before = own.Parameter.Loaded(ScalarType.Float32);
        var after = theirs.Unpacked(ScalarType.Float32).to(before.device);
        if (after.eq(before).all().item<bool>())
        {
            return;
        }

        if (!_reached.Contains(own.Module))
        {
            _unreached.Add(own.Path.Split('.')[0]);
            return;
        }

        if (own.Module.AdaptableOf(own.Parameter) is { } layer && layer.Weight == own.Parameter)
        {
            LowRankAdapter.RefuseKind(layer);
            var part = ChangeDecomposition.Of(layer.ToMatrix(after - before), layer.Kernel.Any(static size => size > 1) ? options with { Rank = options.ConvolutionRank ?? options.Rank } : options);
            part.A.MoveToOuterDisposeScope();
            part.B.MoveToOuterDisposeScope();
            _changes.Add(new LayerChange(layer, part));
            return;
        }

        _copies[own.Parameter] = after.clone().MoveToOuterDisposeScope();
        if (!own.Module.Adaptables.Any(other => other.Bias == own.Parameter))
        {
            _saved.Add(own.Module.Path);
        }
    }

    private void RefuseOthers(NamedParameter[] own, Dictionary<string, Parameter> theirs)
    {
        var unfit = Array.Find(own, named => !theirs.TryGetValue(named.Path, out var other) || !other.Shape.SequenceEqual(named.Parameter.Shape) || !other.IsLoaded);
        if (unfit.Parameter is not null)
        {
            var other = theirs.GetValueOrDefault(unfit.Path);
            throw new PeftException("ModelsDiffer", $"'{unfit.Path}' is [{string.Join(", ", unfit.Parameter.Shape)}] in '{model.Name}' and {(other is null ? "missing" : $"[{string.Join(", ", other.Shape)}]")} in the other model: their difference is no adapter.")
            {
                Target = unfit.Path,
                RecommendedAction = "Give the model that the other one was trained from; its vocabulary has to be the same too.",
            };
        }
    }
}
