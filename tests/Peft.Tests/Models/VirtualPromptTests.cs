using System.Globalization;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tests.Adapters;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Virtual tokens in front of a row: embeddings, or keys and values for each layer.</summary>
public class VirtualPromptTests
{
    private const int Virtual = 3;

    [Fact]
    public void The_first_label_is_learned_from_the_last_virtual_token()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var tiny = TinyLlama.Create();
        var model = (CausalModel)tiny.Base;
        var ids = TinyLlama.Inputs()["input_ids"];
        var front = tensor(new long[,] { { 5, 9, 11 }, { 5, 9, 11 } });
        var prompt = new VirtualPrompt(Virtual) { Embeddings = model.Backbone.Embed(front.narrow(0, 0, 1), new ForwardContext()) };
        var context = new ForwardContext { Prompt = prompt };
        var output = model.Forward(ids, context);
        var whole = model.Forward(cat([front, ids], 1), new ForwardContext());
        Assert.Equal(Virtual, output.VirtualLength);
        TensorAssert.CloseToScale(whole.Hidden, output.Hidden, 1e-6, "hidden states");
        var labels = cat([full_like(front, -100), ids], 1);
        TensorAssert.CloseToScale(model.Loss(whole, labels, null, new ForwardContext()), model.Loss(output, ids, null, context), 1e-6, "loss");
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Generation_with_a_cache_goes_on_behind_them(bool isPrefix)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var tiny = TinyLlama.Create();
        var model = (CausalModel)tiny.Base;
        var ids = TinyLlama.Inputs()["input_ids"];
        var mask = ones_like(ids);
        mask.narrow(0, 0, 1).narrow(1, 0, 2).zero_();
        var prompt = isPrefix ? Prefix() : new VirtualPrompt(Virtual) { Embeddings = randn(Virtual, 16) };
        var positions = mask.cumsum(1).sub(1).clamp_min(0);
        var whole = model.Forward(ids, new ForwardContext { Prompt = prompt, AttentionMask = mask, Positions = positions });
        using var cache = new ModelCache();
        foreach (var (start, count) in new[] { (0L, 4L), (4L, 1L), (5L, 1L) })
        {
            var context = new ForwardContext
            {
                Prompt = prompt,
                Cache = cache,
                AttentionMask = mask.narrow(1, 0, start + count),
                Positions = positions.narrow(1, start, count),
            };
            var part = model.Forward(ids.narrow(1, start, count), context);
            TensorAssert.CloseToScale(
                whole.Hidden.view(2, whole.Length, -1).select(1, whole.VirtualLength + start + count - 1),
                part.LastPosition(),
                1e-5,
                $"position {(start + count).ToString(CultureInfo.InvariantCulture)}");
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void They_get_their_gradients_through_recomputed_blocks_too(bool isPrefix)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var tiny = TinyLlama.Create();
        var model = (CausalModel)tiny.Base;
        var ids = TinyLlama.Inputs()["input_ids"];
        var prompt = isPrefix ? Prefix() : new VirtualPrompt(Virtual) { Embeddings = randn(Virtual, 16) };
        var found = new[] { false, true }.Select(isRecomputed =>
        {
            using var tape = new Tape();
            foreach (var tensor in prompt.Tensors)
            {
                tape.AddRoot(tensor, needsGradient: true);
            }

            var context = new ForwardContext { Prompt = prompt, Tape = tape, Checkpointing = isRecomputed };
            var loss = model.Loss(model.Forward(ids, context), ids, null, context);
            return tape.BackwardTo([(loss, ones([]))], prompt.Tensors, default);
        }).ToArray();
        for (var i = 0; i < prompt.Tensors.Count; i++)
        {
            Assert.True(found[0][i]!.abs().max().item<float>() > 0);
            TensorAssert.CloseToScale(found[0][i]!, found[1][i]!, 1e-5, "gradient");
        }
    }

    [Fact]
    public void A_packed_row_has_no_place_for_them()
    {
        using var scope = NewDisposeScope();
        using var tiny = TinyLlama.Create();
        var context = new ForwardContext { Prompt = Prefix(), Packing = [[3, 3], [6]] };
        Assert.Equal("PromptPacked", Assert.Throws<PeftException>(() => tiny.Base.Forward(TinyLlama.Inputs()["input_ids"], context)).ErrorId);
    }

    private static VirtualPrompt Prefix() => new(Virtual)
    {
        KeyValues = [.. Enumerable.Range(0, 2).Select(static _ => new KeyValuePrefix(randn(1, 2, Virtual, 4), randn(1, 2, Virtual, 4)))],
    };
}
