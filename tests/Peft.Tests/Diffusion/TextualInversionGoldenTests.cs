using Peft.Diffusion;
using Peft.Diffusion.Adapters;
using Peft.Models;
using Peft.Tests.Golden;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>Files of textual inversion against what diffusers makes of them.</summary>
public sealed class TextualInversionGoldenTests
{
    [GoldenTheory]
    [GoldenData("diffusion", "textual-inversion/", Holding = "learned_embeds.safetensors")]
    [GoldenData("diffusion", "textual-inversion/", Holding = "learned_embeds.pt")]
    [GoldenData("diffusion", "textual-inversion/", Holding = "learned_embeds.bin")]
    public void A_file_gives_tokens_vectors_and_the_states_of_a_prompt(string path) => GoldenCases.Run("diffusion", path, folder =>
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var golden = AdapterGolden.Case(folder);
        var arguments = golden["arguments"]!;
        var recorded = AdapterGolden.Tensors(Path.Combine(folder, "data.safetensors"));
        using var inversion = TextualInversion.Read(Path.Combine(folder, (string)arguments["file"]!), (string)arguments["token"]!);
        Assert.Equal(AdapterGolden.Strings(golden["added_tokens"]), inversion.Tokens);
        Assert.Equal((string)golden["converted_prompt"]!, inversion.Expand((string)arguments["prompt"]!));
        Assert.True(recorded["vectors"].equal(inversion.Vectors).all().item<bool>());

        using var model = DiffusionModelFiles.Load(GoldenCases.PathOf("diffusion", (string)arguments["model"]!));
        var encoder = ((DiffusionModel)model.Base).TextEncoders[0];
        var ids = recorded["input_ids"];
        var first = (int)golden["vocabulary"]! - inversion.Tokens.Count;
        var context = new ForwardContext { Rows = ids.size(0), Length = ids.size(1) };
        var embeddings = encoder.Backbone.Embed(ids.clamp_max(first - 1), context);
        foreach (var (id, place) in ids.data<long>().ToArray().Select(static (id, place) => (id, place)).Where(entry => entry.id >= first))
        {
            embeddings[place] = inversion.Vectors[id - first];
        }

        var states = encoder.Forward(new ModelInputs { Ids = ids, Embeddings = embeddings }, context).Hidden;
        AdapterGolden.AssertClose(recorded["last_hidden_state"], states.view(recorded["last_hidden_state"].shape), golden["tolerance"]!, "states");
    });
}
