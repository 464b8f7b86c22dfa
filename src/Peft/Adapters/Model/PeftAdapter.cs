using Peft.Adapters.Asking;
using Peft.Adapters.Conversion;
using Peft.Adapters.Files;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;

namespace Peft.Adapters.Model;

/// <summary>An adapter of a loaded model, as it flows through a pipeline.</summary>
public sealed class PeftAdapter
{
    internal PeftAdapter(PeftModel model, Adapter adapter, string? path, LoadReport report)
    {
        Model = model;
        Adapter = adapter;
        Path = path;
        Report = report;
    }

    /// <summary>The model it belongs to.</summary>
    public PeftModel Model { get; }

    /// <summary>The adapter's name.</summary>
    public string Name => Adapter.Name;

    /// <summary>Its configuration, with the target modules it found.</summary>
    public AdapterConfig Config => Adapter.Config;

    /// <summary>The folder it was loaded from or last saved to; null when it was never on disk.</summary>
    public string? Path { get; internal set; }

    /// <summary>What was worth saying when it was added or loaded.</summary>
    public LoadReport Report { get; }

    /// <summary>Whether it is among the model's active adapters. They act while <see cref="PeftModel.AdaptersEnabled"/>.</summary>
    public bool IsActive => Model.ActiveAdapters.Contains(Name, StringComparer.Ordinal);

    /// <summary>What it reaches of the model, by kind and count, and what stays as it is.</summary>
    public AdapterCoverage Coverage => AdapterCoverage.Of(Adapter, Model.Base);

    /// <summary>The paths of the layers it sits on, and of the modules that its method tunes in full.</summary>
    public IReadOnlyList<string> AdaptedModules => Values.Of<string>(
    [
        .. Adapter.Layers.Select(static layer => layer.Path),
        .. Adapter.Overlays.Where(static overlay => overlay.Kind == OverlayKind.TunedModule).SelectMany(static overlay => overlay.Targets).Select(static target => target.Path).Distinct(),
    ]);

    /// <summary>What training changes, each parameter once, in the order of keys.</summary>
    public IReadOnlyList<AdapterParameter> TrainableParameters =>
        Values.Of(Adapter.Parameters().Where(static parameter => parameter.Role == ParameterRole.Trained).DistinctBy(static parameter => parameter.Parameter));

    /// <summary>How it was trained, where it was trained here or its folder holds the training's log; set by the trainer.</summary>
    public ITrainingRecord? TrainingRecord { get; internal set; }

    /// <summary>How it wants to be asked: what its training made prompts of; null where that isn't known. It is saved beside the adapter.</summary>
    public PromptForm? PromptForm { get; set; }

    /// <summary>Where it comes from: what its training had, saved beside it; null where that isn't known.</summary>
    public Provenance? Provenance { get; internal set; }

    /// <summary>The configuration that it was asked for by and the seed of its starting values, until a training has moved it; null where it was loaded.</summary>
    internal (AdapterConfig Config, ulong? Seed)? Start { get; set; }

    /// <summary>What was lost when it was made of another adapter, or of two models; null where it wasn't.</summary>
    public ConversionReport? Conversion { get; internal set; }

    /// <summary>The adapter itself, for those who compute with it.</summary>
    public Adapter Adapter { get; }

    /// <summary>Takes note of where it was saved, and puts beside it how it wants to be asked.</summary>
    internal void LiesIn(string folder)
    {
        PromptForm?.Save(folder);
        Provenance?.Save(folder);
        Path = folder;
    }

    /// <inheritdoc/>
    public override string ToString() => $"{Name} ({Config.PeftType})";
}
