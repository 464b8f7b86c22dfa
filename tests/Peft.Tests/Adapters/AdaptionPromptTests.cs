using Peft.Adapters.Methods.AdaptionPrompt;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tests.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

public class AdaptionPromptTests
{
    private static readonly AdaptionPromptConfig s_config = new() { Length = 3, LayerCount = 1 };

    [Theory]
    [InlineData(false, "k_proj")]
    [InlineData(true, "c_attn")]
    public void Queries_see_the_prompt_with_a_cache_as_without(bool isGpt2, string layer)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = isGpt2 ? Gpt2() : TinyLlama.Create();
        model.AddAdapter(s_config, "prompt", 1).Perturb(2);
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of(layer) }, "keys", 3).Perturb(4);
        model.SetActive("prompt", "keys");
        var ids = TinyLlama.Inputs()["input_ids"];
        var whole = model.Base.Forward(ids, model.NewPass(new ForwardContext())).Hidden.view(2, 6, -1);
        using var cache = new ModelCache();
        for (var i = 0; i < 6; i++)
        {
            var step = model.Base.Forward(ids.narrow(1, i, 1), model.NewPass(new ForwardContext { Cache = cache })).Hidden;
            Assert.True(whole.select(1, i).sub(step).abs().max().item<float>() < 1e-4);
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Blocks_that_run_again_give_the_same_gradients(bool isGpt2)
    {
        using var scope = NewDisposeScope();
        using var model = isGpt2 ? Gpt2() : TinyLlama.Create();
        model.AddAdapter(s_config with { LayerCount = 2 }, "prompt", 1).Perturb(2);
        Assert.All(Gradients(checkpointing: false).Zip(Gradients(checkpointing: true)), static pair =>
        {
            Assert.True(pair.First.abs().max().item<float>() > 1e-4);
            Assert.True(pair.First.sub(pair.Second).abs().max().item<float>() < 1e-5);
        });

        Tensor[] Gradients(bool checkpointing)
        {
            using var noGradients = no_grad();
            var parameters = model["prompt"].TrainableParameters.Select(static entry => entry.Parameter).ToArray();
            foreach (var parameter in parameters)
            {
                parameter.Data.requires_grad_(true);
                parameter.Gradient = zeros_like(parameter.Data).requires_grad_(false);
            }

            using var tape = new Tape();
            var context = model.NewPass(new ForwardContext { Tape = tape, Checkpointing = checkpointing });
            var ids = TinyLlama.Inputs()["input_ids"];
            tape.Backward(((CausalModel)model.Base).Loss(model.Base.Forward(ids, context), ids, null, context));
            return [.. parameters.Select(static parameter => parameter.Gradient!.clone())];
        }
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using var model = TinyLlama.Create();
        Assert.Equal("PromptDoesNotFit", Assert.Throws<PeftException>(() => model.AddAdapter(s_config with { LayerCount = 3 })).ErrorId);
        Assert.Equal("PromptDoesNotFit", Assert.Throws<PeftException>(() => model.AddAdapter(new AdaptionPromptConfig { LayerCount = 1 })).ErrorId);
        model.AddAdapter(s_config, "prompt");
        Assert.Equal("MergeNotPossible", Assert.Throws<PeftException>(() => model.Merge()).ErrorId);
    }

    /// <summary>GPT-2 with two layers, of which the second scales its scores otherwise than a prompt's.</summary>
    internal static PeftModel Gpt2() => new(
        RandomModel.Create("""{ "model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "scale_attn_by_inverse_layer_idx": true, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0 }"""), "gpt2");
}
