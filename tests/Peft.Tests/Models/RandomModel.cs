using System.Text.Json.Nodes;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>A model made of a configuration, with random weights: scales of norms and layers around one, others small.</summary>
internal static class RandomModel
{
    /// <summary>The model, the same for the same configuration.</summary>
    /// <param name="config">What stands in a config.json.</param>
    /// <param name="vocabulary">Its number of tokens, where the configuration names none.</param>
    public static PretrainedModel Create(string config, int vocabulary = 64)
    {
        var document = JsonNode.Parse(config)!.AsObject();
        document["vocab_size"] ??= vocabulary;
        return Create(document);
    }

    /// <summary>The model, the same for the same configuration.</summary>
    /// <param name="config">What stands in a config.json.</param>
    public static PretrainedModel Create(JsonObject config)
    {
        using var noGradients = no_grad();
        using var generator = new Generator(1);
        var model = ArchitectureRegistry.Create(new ModelConfig(config));
        foreach (var (path, parameter, _) in model.NamedWeights())
        {
            var values = empty([.. parameter.Shape]);
            parameter.Assign(path.EndsWith("norm.weight", StringComparison.Ordinal) || path.EndsWith("layer_scalar", StringComparison.Ordinal)
                ? values.uniform_(0.8, 1.2, generator)
                : values.normal_(0, 0.3, generator));
        }

        model.Prepare();
        return model;
    }
}
