using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Methods;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>Every method learns: a few steps against its gradients lower the loss, and what was frozen stays as it was.</summary>
public class AdapterTrainingTests
{
    /// <summary>Fields that a method needs beyond its defaults, or that make it small enough for the tiny model.</summary>
    private static readonly Dictionary<string, string> s_fields = new()
    {
        ["ADAMSS"] = """{"r":3,"num_subspaces":2}""",
        ["ADAPTION_PROMPT"] = """{"adapter_len":3,"adapter_layers":2}""",
        ["C3A"] = """{"block_size":4}""",
        ["CARTRIDGE"] = """{"num_virtual_tokens":3}""",
        ["FOURIERFT"] = """{"n_frequency":12}""",
        ["GRALORA"] = """{"r":4}""",
        ["LN_TUNING"] = """{"target_modules":["input_layernorm","norm"]}""",
        ["OFT"] = """{"oft_block_size":4}""",
        ["RANDLORA"] = """{"r":4}""",
        ["ROAD"] = """{"group_size":4}""",
        ["VBLORA"] = """{"r":2,"num_vectors":6,"vector_length":4}""",
        ["CPT"] = """{"cpt_token_ids":[3,4,5],"cpt_tokens_type_mask":[1,2,4],"opt_projection_epsilon":9,"opt_projection_format_epsilon":9}""",
        ["LILY"] = """{"r":2}""",
        ["OSF"] = """{"effective_rank":2}""",
        ["PEANUT"] = """{"r":3,"depth":1}""",
        ["POLY"] = """{"r":2,"n_skills":2}""",
        ["PSOFT"] = """{"r":3}""",
        ["PVERA"] = """{"r":8,"d_initial":0.5}""",
        ["SUPERTUNING"] = """{"sparsity":0.9,"r":2}""",
        ["TINYLORA"] = """{"u":4}""",
        ["UNILORA"] = """{"theta_d_length":24}""",
        ["WAVEFT"] = """{"n_frequency":12}""",
        ["MISS"] = """{"r":4}""",
        ["MULTITASK_PROMPT_TUNING"] = """{"num_virtual_tokens":3}""",
        ["SHIRA"] = """{"r":2}""",
        ["IA3"] = """{"feedforward_modules":[]}""",
        ["PREFIX_TUNING"] = """{"num_virtual_tokens":3}""",
        ["PROMPT_TUNING"] = """{"num_virtual_tokens":3}""",
        ["P_TUNING"] = """{"num_virtual_tokens":3}""",
        ["TRAINABLE_TOKENS"] = """{"token_indices":[3,4,5]}""",
        ["VERA"] = """{"r":8,"d_initial":0.5}""",
    };

    public static IEnumerable<object[]> Configurations() =>
    [
        // X-LoRA is made of saved adapters: XLoraTests trains it. A textual inversion is a word of a diffusion model: TextualInversionTests trains it.
        .. AdapterMethods.Names.Where(static method => method is not ("XLORA" or "TEXTUAL_INVERSION")).Select(static method => new object[] { method, s_fields.GetValueOrDefault(method, "{}") }),
        ["MISS", """{"r":4,"init_weights":"bat"}"""],
        ["MISS", """{"r":4,"init_weights":"mini","mini_r":4}"""],
        ["LORA", """{"r":2,"use_dora":true}"""],
        ["OFT", """{"oft_block_size":4,"coft":true,"eps":0.1,"block_share":true,"use_cayley_neumann":false}"""],
        ["HRA", """{"r":2,"apply_GS":true,"init_weights":false}"""],
        ["GRALORA", """{"r":4,"hybrid_r":2}"""],
        ["GLORA", """{"r":2,"config_A_B":"vector","config_C":"none"}"""],
        ["DEFT", """{"r":2,"decomposition_method":"qr"}"""],
        ["LILY", """{"r":2,"stride_A":2,"num_B":3}"""],
        ["PSOFT", """{"r":3,"use_cayley_neumann":true,"psoft_svd":"lowrank"}"""],
        ["ROAD", """{"group_size":4,"variant":"road_4"}"""],
        ["RANDLORA", """{"r":4,"very_sparse":true,"save_projection":false}"""],
        ["PREFIX_TUNING", """{"num_virtual_tokens":3,"prefix_projection":true}"""],
        ["P_TUNING", """{"num_virtual_tokens":3,"encoder_reparameterization_type":"LSTM"}"""],
        ["LORA", """{"r":2,"monteclora_config":{"num_samples":3,"sample_scaler":0.1}}"""],
        ["LORA", """{"r":2,"velora_config":{"num_groups":4}}"""],
        ["ADAMSS", """{"r":4,"num_subspaces":3,"subspace_rank":2,"use_dynamic_rank":true}"""],
        ["FROD", """{"sparse_rate":0.2,"save_projection":false}"""],
        ["CARTRIDGE", """{"num_virtual_tokens":3,"num_frozen_tokens":0}"""],
        ["LORA", """{"r":2,"init_lora_weights":"pissa"}"""],
        ["LORA", """{"r":2,"init_lora_weights":"olora"}"""],
        ["LORA", """{"r":2,"init_lora_weights":"orthogonal"}"""],
        ["LORA", """{"r":2,"init_lora_weights":"mica"}"""],
        ["LORA", """{"r":2,"lora_alpha":2,"init_lora_weights":"loftq","loftq_config":{"loftq_bits":4,"loftq_iter":2}}"""],
    ];

    /// <summary>A method's configuration as a file has it, on two projections.</summary>
    internal static JsonObject Document(string method, string fields)
    {
        var document = (JsonObject)JsonNode.Parse(fields)!;
        document["peft_type"] = method;
        document["task_type"] = "CAUSAL_LM";
        if (typeof(LayerwiseConfig).IsAssignableFrom(AdapterMethods.ConfigOf(method)))
        {
            document["target_modules"] ??= new JsonArray("q_proj", "v_proj");
        }

        return document;
    }

    [Theory]
    [MemberData(nameof(Configurations))]
    public void A_few_steps_lower_the_loss(string method, string fields)
    {
        using var model = TinyLlama.Create();
        var adapter = model.AddAdapter(AdapterConfig.FromJson(Document(method, fields)), seed: 1);
        var frozen = adapter.Adapter.Parameters().Where(static parameter => parameter.Role != ParameterRole.Trained)
            .Select(static parameter => (parameter.Parameter, Before: parameter.Parameter.Data.clone())).ToArray();
        var bits = ModelBits.Of(model.Base);
        var inputs = new Dictionary<string, Tensor>(TinyLlama.Inputs());
        inputs["labels"] = inputs["input_ids"];
        var first = ModelRun.Backward(model, adapter, inputs).Loss;
        for (var step = 0; step < 8; step++)
        {
            Descend(model, adapter, inputs);
        }

        var last = ModelRun.Backward(model, adapter, inputs).Loss;
        Assert.True(last < first - 1e-4, FormattableString.Invariant($"the loss went from {first} to {last}"));
        Assert.All(frozen, static entry => Assert.True(entry.Parameter.Data.equal(entry.Before).all().item<bool>()));
        Assert.Equal(bits, ModelBits.Of(model.Base));
    }

    /// <summary>A method that reads a layer's bias, beside the layer itself, counts in the gradient of the adapter's own copy of it.</summary>
    [Theory]
    [InlineData("LORA", """{"r":2,"use_dora":true,"bias":"lora_only"}""")]
    [InlineData("BOFT", """{"bias":"boft_only"}""")]
    [InlineData("GLORA", """{"r":2,"bias":"glora_only"}""")]
    public void The_gradient_of_a_trained_bias_is_that_of_the_loss(string method, string fields)
    {
        const double Step = 0.01;
        using var model = TinyLlama.Create(bias: true);
        var document = (JsonObject)JsonNode.Parse(fields)!;
        document["peft_type"] = method;
        document["target_modules"] = new JsonArray("v_proj");
        var adapter = model.AddAdapter(AdapterConfig.FromJson(document), seed: 1).Perturb(2);
        var inputs = new Dictionary<string, Tensor>(TinyLlama.Inputs());
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var gradients = ModelRun.Backward(model, adapter, inputs).Gradients;
        var biases = adapter.TrainableParameters.Where(static parameter => parameter.FullKey.EndsWith("base_layer.bias", StringComparison.Ordinal)).ToArray();
        Assert.NotEmpty(biases);
        Assert.All(biases, bias =>
        {
            var gradient = gradients[bias.FullKey];
            var length = gradient.norm().item<float>();
            var slope = (LossAt(Step) - LossAt(-Step)) / (2 * Step);
            Assert.True(Math.Abs(slope - length) < 0.01 * length, FormattableString.Invariant($"the loss rises by {slope} along a gradient of {length}"));

            double LossAt(double step)
            {
                bias.Parameter.Data.add_(gradient, alpha: step / length);
                bias.Parameter.MarkChanged();
                var (value, others) = ModelRun.Backward(model, adapter, inputs);
                bias.Parameter.Data.add_(gradient, alpha: -step / length);
                Array.ForEach([.. others.Values], static other => other.Dispose());
                return value;
            }
        });
    }

    /// <summary>A step along the signs of the gradients, which needs no scale.</summary>
    internal static void Descend(Peft.Adapters.Model.PeftModel model, Peft.Adapters.Model.PeftAdapter adapter, Dictionary<string, Tensor> inputs)
    {
        using var scope = NewDisposeScope();
        var gradients = ModelRun.Backward(model, adapter, inputs).Gradients;
        using var noGradients = no_grad();
        foreach (var parameter in adapter.TrainableParameters)
        {
            parameter.Parameter.Data.add_(gradients[parameter.FullKey].sign(), alpha: -0.01);
            parameter.Parameter.MarkChanged();
            gradients[parameter.FullKey].Dispose();
        }
    }
}
