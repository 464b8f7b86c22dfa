using System.Text.Json;
using Peft.Adapters.Methods.TextualInversion;
using Peft.Diffusion;
using Peft.Diffusion.Adapters;
using Peft.Files;
using Peft.Models;
using Peft.Tensors;
using Peft.Tests.Golden;
using Peft.Tests.Models;
using Peft.Training;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>Textual inversions against diffusers: files, prompts with them, and a training.</summary>
public sealed class TextualInversionGoldenTests
{
    [GoldenTheory]
    [GoldenData("diffusion", "textual-inversion/", Holding = "learned_embeds.safetensors")]
    [GoldenData("diffusion", "textual-inversion/", Holding = "learned_embeds.pt")]
    [GoldenData("diffusion", "textual-inversion/", Holding = "learned_embeds.bin")]
    public void A_file_gives_a_word_vectors_and_the_states_of_a_prompt(string path) => GoldenCases.Run("diffusion", path, folder =>
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var golden = AdapterGolden.Case(folder);
        var arguments = golden["arguments"]!;
        var recorded = AdapterGolden.Tensors(Path.Combine(folder, "data.safetensors"));
        using var model = DiffusionModelFiles.Load(GoldenCases.PathOf("diffusion", (string)arguments["model"]!));
        var adapter = DiffusionAdapterFile.Load(model, Path.Combine(folder, (string)arguments["file"]!), "word", (string)arguments["token"]!);
        Assert.Equal(AdapterGolden.Strings(golden["added_tokens"]).Length, ((TextualInversionConfig)adapter.Config).Vectors);
        Assert.True(recorded["vectors"].equal(Assert.Single(adapter.TrainableParameters).Parameter.Data).all().item<bool>());

        var diffusion = (DiffusionModel)model.Base;
        var selection = model.Select("word");
        var ids = diffusion.Tokenize((string)arguments["prompt"]!, selection);
        Assert.True(recorded["input_ids"].equal(ids[0]).all().item<bool>());
        AdapterGolden.AssertClose(recorded["last_hidden_state"], diffusion.EncodeText(ids, new ForwardContext { Selection = selection }).States, golden["tolerance"]!, "states");
    });

    [GoldenTheory]
    [GoldenData("diffusion", "textual-inversion/", Holding = "data.safetensors", HoldingTensor = "losses")]
    public void A_word_is_learnt_as_diffusers_learns_it(string path) => GoldenCases.Run("diffusion", path, folder =>
    {
        using var scope = NewDisposeScope();
        var expected = JsonFile.Read(Path.Combine(folder, "case.json"));
        var arguments = expected.GetProperty("arguments");
        using var recorded = SafetensorsFile.Open(Path.Combine(folder, "data.safetensors"));
        using var model = DiffusionModelFiles.Load(GoldenCases.PathOf("diffusion", arguments.GetProperty("model").GetString()!));
        var adapter = model.AddAdapter(new TextualInversionConfig { Token = arguments.GetProperty("token").GetString() }, "word");
        var vectors = Assert.Single(adapter.TrainableParameters).Parameter;
        Assert.Equal(arguments.GetProperty("token_id").GetInt32(), Assert.IsType<TextualInversionLayer>(Assert.Single(adapter.Adapter.Layers).Adapter).FirstId);
        vectors.Assign(recorded.Read("initial").unsqueeze(0));

        List<float> losses = [];
        List<Tensor> steps = [];
        using var data = new DiffusionTrainingGoldenTests.GivenNoise(recorded, arguments, 1);
        new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = "word",
            Data = data,
            Options = DiffusionTrainingGoldenTests.Options(arguments, accumulate: 1),
            OnStep = step =>
            {
                losses.AddRange(step.Losses);
                steps.Add(vectors.Data[0].clone().DetachFromDisposeScope());
            },
        }).Train();

        // A step is told of before the optimiser moves.
        steps.Add(vectors.Data[0].clone().DetachFromDisposeScope());
        TensorAssert.Close(recorded.Read("losses"), tensor(losses.ToArray()), expected.GetProperty("tolerance"), "losses");
        TensorAssert.Close(recorded.Read("vectors"), stack(steps[1..]), expected.GetProperty("tolerance"), "vectors");
        steps.ForEach(static step => step.Dispose());
    });
}
