using System.Globalization;
using Peft.Adapters.Model;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>A Llama of a few thousand parameters with random weights.</summary>
internal static class TinyLlama
{
    public const int Vocabulary = 41;

    public static PeftModel Create(bool tied = false, bool bias = false, ScalarType type = ScalarType.Float32, ulong seed = 1)
    {
        var model = Structure(tied, bias);
        using var noGradients = no_grad();
        using var generator = new Generator(seed);
        foreach (var (_, parameter, _) in model.NamedParameters().Where(static named => named.Parameter.IsOwner))
        {
            var values = empty([.. parameter.Shape]).normal_(0, parameter.Shape.Count == 1 ? 0.2 : 0.4, generator);
            parameter.Assign((parameter.Shape.Count == 1 && parameter.Name == "weight" ? values.add_(1) : values).to(type));
        }

        model.Fuse();
        return new PeftModel(model, "tiny");
    }

    public static PeftModel CreateStructure() => new(Structure(tied: false, bias: false), "tiny");

    public static Dictionary<string, Tensor> Inputs(int rows = 2, int length = 6, ulong seed = 7)
    {
        using var generator = new Generator(seed);
        var ids = randint(3, Vocabulary, [rows, length], dtype: ScalarType.Int64, generator: generator);
        return new() { ["input_ids"] = ids, ["labels"] = ids };
    }

    /// <summary>Moves every parameter of an adapter away from its start, so that it does something.</summary>
    public static PeftAdapter Perturb(this PeftAdapter adapter, ulong seed, double scale = 0.2)
    {
        using var noGradients = no_grad();
        using var generator = new Generator(seed);
        foreach (var parameter in adapter.TrainableParameters)
        {
            var value = parameter.Parameter.Data;
            using var noise = empty([.. parameter.Parameter.Shape]).normal_(0, scale, generator);
            value.add_(noise.to(value.dtype));
            parameter.Parameter.MarkChanged();
        }

        return adapter;
    }

    private static PretrainedModel Structure(bool tied, bool bias)
    {
        var model = ArchitectureRegistry.Create(ModelConfig.FromText(string.Create(CultureInfo.InvariantCulture, $$"""
            {
              "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": {{Vocabulary}}, "hidden_size": 16, "intermediate_size": 24,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
              "attention_bias": {{(bias ? "true" : "false")}}, "tie_word_embeddings": {{(tied ? "true" : "false")}}
            }
            """)));
        foreach (var (owner, follower) in model.TiedParameters)
        {
            model.FindParameter(follower)!.TieTo(model.FindParameter(owner)!);
        }

        return model;
    }
}
