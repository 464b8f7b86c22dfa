using Peft.Models.Architectures;

namespace Peft.Models;

/// <summary>The families of models there are, by the class names that configurations give. One line a family.</summary>
public static class ArchitectureRegistry
{
    private static readonly Dictionary<string, Func<ModelConfig, PretrainedModel>> Classes = new()
    {
        ["LlamaForCausalLM"] = static config => new LlamaForCausalLM(config),
        ["LlamaForSequenceClassification"] = static config => new LlamaForSequenceClassification(config),
    };

    // What a configuration without architectures, or a task, asks for.
    private static readonly Dictionary<(string ModelType, string Task), string> Tasks = new()
    {
        [("llama", "CAUSAL_LM")] = "LlamaForCausalLM",
        [("llama", "SEQ_CLS")] = "LlamaForSequenceClassification",
    };

    /// <summary>Names of the classes that <see cref="Create"/> knows.</summary>
    public static IReadOnlyCollection<string> Supported => Classes.Keys;

    /// <summary>Makes a model's structure, without weights.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="task">PEFT's task type (<c>CAUSAL_LM</c>, <c>SEQ_CLS</c>) to choose the head by; null for what the configuration names.</param>
    /// <exception cref="NotSupportedByPeftException"><c>ArchitectureNotSupported</c>.</exception>
    public static PretrainedModel Create(ModelConfig config, string? task = null)
    {
        ArgumentNullException.ThrowIfNull(config);
        var name = task is null ? config.Architecture : null;
        name ??= Tasks.GetValueOrDefault((config.ModelType, task ?? "CAUSAL_LM"));
        return name is not null && Classes.TryGetValue(name, out var make)
            ? make(config)
            : throw new NotSupportedByPeftException(
                "ArchitectureNotSupported",
                $"The architecture '{config.Architecture ?? config.ModelType}' (model_type '{config.ModelType}'{(task is null ? "" : $", task {task}")}) is not supported.")
            {
                RecommendedAction = $"Supported are: {string.Join(", ", Classes.Keys)}.",
            };
    }
}
