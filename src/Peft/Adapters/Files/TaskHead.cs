using System.Globalization;
using Peft.Models;
using Peft.Training.Data;

namespace Peft.Adapters.Files;

/// <summary>The head that an adapter's folder asks its base for: of the task that it was trained for, with as many classes as it has scores.</summary>
public static class TaskHead
{
    private const string DefaultTask = "CAUSAL_LM";

    /// <summary>How an adapter's base is loaded so that the adapter's own head finds its place.</summary>
    /// <param name="options">How it would be loaded otherwise.</param>
    /// <param name="config">The adapter's configuration.</param>
    /// <param name="folder">The adapter's folder.</param>
    /// <param name="basePath">The base's folder.</param>
    /// <returns>The options with the task and the classes: those that the training named, or else as many as the file has scores; the configuration's own where these are as many.</returns>
    public static LoadOptions Complete(LoadOptions options, AdapterConfig config, string folder, string basePath)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(config);
        if (config.TaskType is null or DefaultTask)
        {
            return options;
        }

        options = options with { Task = config.TaskType };
        if (Provenance.Load(folder)?.Labels is { Count: > 0 } labels)
        {
            return options with { Labels = labels };
        }

        using var structure = ModelLoader.Load(basePath, new LoadOptions { StructureOnly = true, Task = config.TaskType });
        return ScoresIn(folder, structure) is { } count && count != ModelLabels.Of(structure).Count
            ? options with { Labels = [.. Enumerable.Range(0, (int)count).Select(static i => string.Create(CultureInfo.InvariantCulture, $"LABEL_{i}"))] }
            : options;
    }

    /// <summary>Whether a loaded model has the head that these options ask for.</summary>
    /// <param name="model">The model.</param>
    /// <param name="options">From <see cref="Complete"/>.</param>
    public static bool Serves(PretrainedModel model, LoadOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        return options.Task is null
            ? model.ClassificationHead is null
            : model.Config.Family is var family && family.Heads.Any(head => head.Task == options.Task && family.Stem + head.Suffix == model.ClassName)
                && (options.Labels is not { } labels || ModelLabels.Of(model).Names.SequenceEqual(labels));
    }

    /// <summary>What to do where a model lacks the head that an adapter was trained with, with a space in front; empty where it doesn't.</summary>
    /// <param name="config">The adapter's configuration.</param>
    /// <param name="model">The model.</param>
    internal static string Advice(AdapterConfig config, PretrainedModel model) => model.ClassificationHead is null && config.TaskType is "SEQ_CLS" or "TOKEN_CLS" or "QUESTION_ANS"
        ? $" It was trained with the head of {config.TaskType}: load the model with -TaskType {config.TaskType}, or leave -Model out."
        : "";

    /// <summary>How many scores the head in an adapter's file gives; null where it holds none.</summary>
    private static long? ScoresIn(string folder, PretrainedModel structure)
    {
        if (structure.ClassificationHead is not { } head)
        {
            return null;
        }

        using var store = AdapterFile.Open(folder);
        var labels = ModelLabels.Of(structure).Count;
        return structure.NamedParameters()
            .Where(named => named.Path.StartsWith(head + ".", StringComparison.Ordinal) && named.Parameter.Shape[0] == labels)
            .Select(named => store.TryGetEntry(AdapterFile.Prefix + named.Path, out var entry) && entry.Shape is [var count, ..] ? count : (long?)null)
            .LastOrDefault(static count => count is not null);
    }
}
