using Peft.Adapters.Files;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Conversion;

/// <summary>
/// Turns what can be merged into LoRA: an adapter of any method, or the difference between two models. A change that LoRA can't hold exactly is cut
/// at a rank by <see cref="ChangeDecomposition"/>, and what that loses is stated on the new adapter. What stays as it is: modules saved in full, trained biases.
/// </summary>
public static class AdapterConversion
{
    /// <summary>Adds a LoRA adapter that does what another adapter does, on the base as it was loaded. The other one stays as it is, and the new one waits to be made active.</summary>
    /// <param name="model">The model.</param>
    /// <param name="name">The adapter to convert; LoRA itself at a lower rank, or one whose start changed the base.</param>
    /// <param name="newName">The new adapter's name.</param>
    /// <param name="options">How much is kept; null for the defaults.</param>
    /// <returns>The new adapter; its <see cref="PeftAdapter.Conversion"/> says what was lost.</returns>
    /// <exception cref="PeftException"><c>AdapterConversionNotPossible</c>: it changes no weight, or not the same way for every input; <c>ConversionInvalid</c>; or what <see cref="PeftModel.AddAdapter"/> throws.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>AdapterConversionNotSupported</c>: experts, convolutions with groups.</exception>
    public static PeftAdapter ToLora(PeftModel model, string name, string newName, ConversionOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var held = model.Acquire("converting an adapter");
        return Convert(model, model[name], options ?? new ConversionOptions(), config => model.AddAdapter(config, newName, seed: 0));
    }

    /// <summary>Saves an adapter as LoRA for the base as it was loaded, without adding anything to the model.</summary>
    /// <param name="model">The model.</param>
    /// <param name="name">The adapter.</param>
    /// <param name="folder">The folder; made when it isn't there.</param>
    /// <param name="options">How much is kept; null for the defaults.</param>
    /// <returns>What was lost.</returns>
    /// <exception cref="PeftException">As <see cref="ToLora"/>, or what writing throws.</exception>
    /// <exception cref="NotSupportedByPeftException">As <see cref="ToLora"/>.</exception>
    public static ConversionReport SaveAsLora(PeftModel model, string name, string folder, ConversionOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var held = model.Acquire("saving an adapter");
        var converted = Convert(model, model[name], options ?? new ConversionOptions(), config => AdapterFactory.Create(model, config, name, seed: 0));
        using var adapter = converted.Adapter;
        AdapterFile.Save(adapter, folder, embeddings: null);
        converted.LiesIn(folder);
        return converted.Conversion!;
    }

    /// <summary>Adds a LoRA adapter that holds what a model was trained to in full: the difference of its weights from this one's. What isn't a layer's weight and differs (norms) is saved in full.</summary>
    /// <param name="model">The model before the training.</param>
    /// <param name="tuned">The model after it, of the same architecture; stays as it is.</param>
    /// <param name="newName">The new adapter's name.</param>
    /// <param name="options">How much is kept; null for the defaults.</param>
    /// <returns>The new adapter; its <see cref="PeftAdapter.Conversion"/> says what was lost.</returns>
    /// <exception cref="PeftException"><c>ModelsDiffer</c>: their parameters aren't the same; <c>AdapterConversionNotPossible</c>: no layer's weight differs; or as <see cref="ToLora"/>.</exception>
    /// <exception cref="NotSupportedByPeftException">As <see cref="ToLora"/>.</exception>
    public static PeftAdapter Extract(PeftModel model, PretrainedModel tuned, string newName, ConversionOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var held = model.Acquire("extracting an adapter");
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        options ??= new ConversionOptions();
        options.Validate();
        return new ModelDifference(model, tuned, options).Build(config => model.AddAdapter(config, newName, seed: 0));
    }

    private static PeftAdapter Convert(PeftModel model, PeftAdapter source, ConversionOptions options, Func<LoraConfig, PeftAdapter> make)
    {
        options.Validate();
        RefuseObstacles(model, source);
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var isTaken = options is { Rank: null, Energy: null } && source.Config is LoraConfig && source.Adapter.Layers.All(static layer => layer.Adapter.ExactFactors() is not null);
        var copies = source.Adapter.Overlays.SelectMany(static overlay => overlay.Targets.Select(target => (target.Parameter, overlay.Copy)))
            .ToDictionary(static entry => entry.Parameter, static entry => entry.Copy.Data);
        List<LayerChange> changes = [];
        foreach (var adapted in source.Adapter.Layers)
        {
            options.Cancellation.ThrowIfCancellationRequested();
            changes.Add(new LayerChange(adapted.Layer, PartOf(adapted, options, isTaken, copies)));
            options.OnProgress?.Invoke(changes.Count, source.Adapter.Layers.Count);
        }

        string[] saved =
        [
            .. source.Config.ModulesToSave ?? [],
            .. source.Adapter.Overlays.Where(static overlay => overlay.Kind == OverlayKind.TunedModule).SelectMany(static overlay => overlay.Targets).Select(static target => target.Path).Distinct(),
        ];
        var bias = source.Config is LayerwiseConfig { Bias: not BiasTraining.None } own ? own.Bias
            : source.Adapter.Layers.Any(layer => layer.Layer.Bias is { } changed && copies.ContainsKey(changed)) ? BiasTraining.Adapted : BiasTraining.None;
        var config = LowRankAdapter.Configure(isTaken ? (LoraConfig)source.Config : null, changes, model) with
        {
            TaskType = source.Config.TaskType,
            BaseModelName = source.Config.BaseModelName,
            Revision = source.Config.Revision,
            Bias = bias,
            ModulesToSave = saved.Length == 0 ? null : saved,
        };
        var converted = LowRankAdapter.Fill(make(config), changes, copies);
        converted.PromptForm = source.PromptForm;
        return converted;
    }

    private static LowRankPart PartOf(AdaptedLayer adapted, ConversionOptions options, bool isTaken, Dictionary<Parameter, Tensor> copies)
    {
        var (layer, adapter) = adapted;
        using var scope = NewDisposeScope();
        var part = adapter.ExactFactors() is { } factors
            ? isTaken || factors.KeepsRank ? Whole(factors, isTaken) : ChangeDecomposition.Of(factors, options)
            : ChangeDecomposition.Of(ChangeOf(layer, adapter, copies), options);
        part.A.MoveToOuterDisposeScope();
        part.B.MoveToOuterDisposeScope();
        return part;
    }

    /// <summary>Factors as they are; the scale stays the configuration's where that is kept too.</summary>
    private static LowRankPart Whole(ChangeFactors factors, bool keepsScale)
    {
        var inner = factors.A.mm(factors.A.t()).mul(factors.B.t().mm(factors.B)).sum().item<float>();
        return new LowRankPart(factors.A.alias(), factors.B.mul(keepsScale ? 1 : factors.Scale), inner * factors.Scale * factors.Scale, 0);
    }

    /// <summary>What merging the adapter alone makes of the weight as it was loaded, [outputs, columns]; a bias that it makes is put beside the copies.</summary>
    private static Tensor ChangeOf(IAdaptable layer, LayerAdapter adapter, Dictionary<Parameter, Tensor> copies)
    {
        var (merged, bare) = MergeAlone(layer, adapter);
        if (merged.Bias is { } bias && !bias.eq(bare.Bias!).all().item<bool>())
        {
            copies[layer.Bias!] = bias.MoveToOuterDisposeScope();
        }

        return layer.ToMatrix(merged.Weight - (adapter.BaseEdit is null ? bare.Weight : layer.Weight.Loaded(bare.Weight.dtype))).to(ScalarType.Float32);
    }

    /// <summary>A layer's weights with one adapter merged, and without, in float32 at least.</summary>
    internal static (Affine Merged, Affine Bare) MergeAlone(IAdaptable layer, LayerAdapter adapter)
    {
        var type = layer.Weight.DataType == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        var bare = new Affine(layer.Weight.Unpacked(type), layer.Bias?.Unpacked(type));
        return (adapter.Merge(new Affine(bare.Weight.clone(), bare.Bias?.clone()), bare), bare);
    }

    /// <summary>Refuses what has no change of a layer's weight that is the same for every input.</summary>
    /// <exception cref="PeftException"><c>AdapterConversionNotPossible</c>.</exception>
    internal static void RefuseObstacles(PeftModel model, PeftAdapter source)
    {
        LowRankAdapter.RefuseStructure(model);
        var obstacle = source.Adapter.MergeObstacle ?? (source.Adapter.Layers.Count == 0 ? "it changes no weight of a layer" : null)
            ?? source.Adapter.Layers.Select(static layer => layer.Adapter.MergeObstacle).FirstOrDefault(static obstacle => obstacle is not null);
        if (obstacle is not null)
        {
            throw new PeftException("AdapterConversionNotPossible", $"The adapter '{source.Name}' is no change of weights that LoRA could hold: {obstacle}.")
            {
                Target = source.Name,
                RecommendedAction = "Use it as it is; what can be merged can be converted.",
            };
        }

        foreach (var adapted in source.Adapter.Layers)
        {
            LowRankAdapter.RefuseKind(adapted.Layer);
        }
    }
}
