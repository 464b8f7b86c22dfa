using Peft.Models.Architectures;

namespace Peft.Models;

/// <summary>The families of models there are, by the class names that configurations give. One line a class.</summary>
public static class ArchitectureRegistry
{
    // The model type and PEFT's task stand for configurations without architectures, and for a head that is asked for.
    private static readonly Row[] Rows =
    [
        new("LlamaForCausalLM", "llama", "CAUSAL_LM", static config => new LlamaForCausalLM(config)),
        new("LlamaForSequenceClassification", "llama", "SEQ_CLS", static config => new LlamaForSequenceClassification(config)),
    ];

    /// <summary>Names of the classes that <see cref="Create"/> knows.</summary>
    public static IReadOnlyCollection<string> Supported => [.. Rows.Select(static row => row.ClassName)];

    /// <summary>Makes a model's structure, without weights.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="task">PEFT's task type (<c>CAUSAL_LM</c>, <c>SEQ_CLS</c>) to choose the head by; null for what the configuration names.</param>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c> or <c>ModelConfigIncomplete</c>.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>ArchitectureNotSupported</c>.</exception>
    public static PretrainedModel Create(ModelConfig config, string? task = null)
    {
        ArgumentNullException.ThrowIfNull(config);
        var name = task is null ? config.Architecture : null;
        var found = name is not null
            ? Array.Find(Rows, row => row.ClassName == name)
            : Array.Find(Rows, row => row.ModelType == config.ModelType && row.Task == (task ?? "CAUSAL_LM"));
        return found?.Make(config) ?? throw new NotSupportedByPeftException(
            "ArchitectureNotSupported",
            $"The architecture '{config.Architecture ?? config.ModelType}' (model_type '{config.ModelType}'{(task is null ? "" : $", task {task}")}) is not supported.")
        {
            RecommendedAction = $"Supported are: {string.Join(", ", Supported)}.",
        };
    }

    private sealed record Row(string ClassName, string ModelType, string Task, Func<ModelConfig, PretrainedModel> Make);
}
