using System.Globalization;
using System.Text.RegularExpressions;
using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.Lycoris;
using Peft.Diffusion;
using Peft.Diffusion.Adapters;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Tensors;
using Peft.Tests.Golden;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>Ranks that come and go in LyCORIS: T-LoRA's by the timestep, DyLoRA's by chance.</summary>
public sealed partial class LycorisRankGoldenTests
{
    [GoldenTheory]
    [GoldenData("diffusion", "lycoris/", Holding = "data.safetensors", HoldingTensor = "masks")]
    public void Ranks_of_T_LoRA_act_by_the_timestep(string path) => GoldenCases.Run("diffusion", path, folder =>
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var temporary = new TemporaryFolder();
        var golden = AdapterGolden.Case(folder);
        var recorded = AdapterGolden.Tensors(Path.Combine(folder, "data.safetensors"));
        var said = ((string)golden["masks"]!).Split(';').Select(static part => Numbers().Matches(part).Select(static match => int.Parse(match.Value, CultureInfo.InvariantCulture)).ToArray()).ToArray();
        var (masked, rank) = (said[0][0], said[1][^1]);
        var mask = new TimestepMask();
        foreach (var (timestep, row) in said[1][..^2].Select(static (timestep, row) => (timestep, row)))
        {
            Assert.Equal((long)recorded["masks"][row].sum().item<float>(), mask.Active(timestep, 1000, rank));
        }

        using var model = DiffusionModelFiles.Load(GoldenCases.PathOf("diffusion", (string)golden["arguments"]!["model"]!));
        DiffusionAdapterFile.Load(model, Path.Combine(folder, (string)golden["files"]![0]!), "whole");
        model.SaveAdapter("whole", temporary["saved"]);
        var file = temporary["saved/adapter_config.json"];
        File.WriteAllText(file, File.ReadAllText(file).Replace("\"timestep_mask\": false", "\"timestep_mask\": true", StringComparison.Ordinal));
        model.LoadAdapter(temporary["saved"], "masked");
        using var inputs = SafetensorsFile.Open(GoldenCases.PathOf("diffusion", Path.Combine((string)golden["inputs"]!, "data.safetensors")));
        var unet = ((DiffusionModel)model.Base).UNet;
        var times = new double[inputs.Read("input.sample").size(0)];
        Tensor Output(string name, double timestep) =>
            DiffusionProbe.Output(unet, inputs, model.NewPass(new ForwardContext { Noise = new NoiseTimes([.. times.Select(_ => timestep)], 1000) }, model.Select(name)));
        AdapterGolden.AssertClose(recorded["output_masked.unet"], Output("masked", masked), golden["tolerance"]!, "masked");
        AdapterGolden.AssertClose(recorded["output.unet"], Output("masked", 0), golden["tolerance"]!, "all ranks");
        AdapterGolden.AssertClose(recorded["output.unet"], Output("whole", masked), golden["tolerance"]!, "without masks");

        // Rows of different timesteps have different ranks.
        var mixed = DiffusionProbe.Output(unet, inputs, model.NewPass(new ForwardContext { Noise = new NoiseTimes([masked, .. times.Skip(1)], 1000) }, model.Select("masked")));
        AdapterGolden.AssertClose(recorded["output_masked.unet"].narrow(0, 0, 1), mixed.narrow(0, 0, 1), golden["tolerance"]!, "first row");
        AdapterGolden.AssertClose(recorded["output.unet"].narrow(0, 1, times.Length - 1), mixed.narrow(0, 1, times.Length - 1), golden["tolerance"]!, "other rows");
    });

    [GoldenTheory]
    [GoldenData("diffusion", "lycoris/", Holding = "data.safetensors", HoldingTensor = "dylora.rank_0")]
    public void Blocks_of_DyLoRA_change_the_weight_as_recorded(string path) => GoldenCases.Run("diffusion", path, folder =>
    {
        using var scope = NewDisposeScope();
        var golden = AdapterGolden.Case(folder);
        var recorded = AdapterGolden.Tensors(Path.Combine(folder, "data.safetensors"));
        var size = (int)golden["arguments"]!["options"]!["block_size"]!;
        using var model = DiffusionModelFiles.Load(GoldenCases.PathOf("diffusion", (string)golden["arguments"]!["model"]!));
        var name = (string)golden["dylora_module"]!;
        var module = DiffusionModules.Of(model.Base)!.Find(name)!;
        using var file = SafetensorsFile.Open(Path.Combine(folder, (string)golden["files"]![0]!));
        var down = file.Read($"{name}.lora_down.weight");
        var layer = new DynamicLora(module.Layer, new LoraConfig { Rank = (int)down.size(0), Alpha = file.Read($"{name}.alpha").item<float>() * size }, size);
        layer.A.Assign(down);
        layer.B.Assign(file.Read($"{name}.lora_up.weight").reshape([.. layer.B.Shape]));
        var ranks = recorded.Keys.Where(static key => key.StartsWith("dylora.rank_", StringComparison.Ordinal)).ToArray();
        Assert.NotEmpty(ranks);
        foreach (var key in ranks)
        {
            var change = layer.Change(int.Parse(key["dylora.rank_".Length..], CultureInfo.InvariantCulture) / size);
            AdapterGolden.AssertClose(recorded[key].flatten(1), change, golden["tolerance"]!, key);
        }
    });

    /// <summary>What all blocks were learnt with is what any reader of the file makes of it.</summary>
    [Fact]
    public void A_trained_DyLoRA_is_a_file_that_others_read_as_LoRA()
    {
        using var folder = new TemporaryFolder();
        using var model = TinyStableDiffusion.Create(folder.Path);
        using var noGradients = no_grad();
        var adapter = model.AddAdapter(AdapterConfig.FromJson(new() { ["peft_type"] = "LYCORIS", ["algo"] = "dylora", ["network_dim"] = 4, ["block_size"] = 2, ["network_alpha"] = 3, ["target_modules"] = new System.Text.Json.Nodes.JsonArray("to_q", "conv1") }), "dynamic", 1);
        foreach (var parameter in adapter.TrainableParameters)
        {
            parameter.Parameter.Assign(randn([.. parameter.Parameter.Shape]));
        }

        var layers = adapter.Adapter.Layers.Select(static layer => (layer.Layer, Change: ((DynamicLora)layer.Adapter).Change(1))).ToArray();
        DiffusionAdapterFile.Save(model, "dynamic", folder["dynamic.safetensors"], DiffusionAdapterFormat.Kohya);
        DiffusionAdapterFile.Load(model, folder["dynamic.safetensors"], "read");
        var before = layers.Select(static entry => entry.Layer.Weight.Data.clone()).ToArray();
        model.Merge(["read"]);
        Assert.All(layers.Zip(before), static entry => Assert.True((entry.First.Layer.Weight.Data - entry.Second).flatten(1).sub(entry.First.Change).abs().max().item<float>() < 1e-4));
    }

    [GeneratedRegex("[0-9]+", RegexOptions.None, 1000)]
    private static partial Regex Numbers();
}
