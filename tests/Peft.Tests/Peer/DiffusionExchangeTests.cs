using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Methods.TextualInversion;
using Peft.Adapters.Model;
using Peft.Diffusion;
using Peft.Diffusion.Adapters;
using Peft.Files;
using Peft.Models;
using Peft.Tensors;
using Peft.Tests.Diffusion;
using static TorchSharp.torch;

namespace Peft.Tests.Peer;

/// <summary>Adapter files of diffusion models, written here and loaded by diffusers and LyCORIS.</summary>
public class DiffusionExchangeTests
{
    private const string Targets = """["to_q","to_v","conv1","proj_in","ff.net.2","q_proj","fc1"]""";

    /// <summary>What diffusers reads without kohya's projections of attention, and without the lengths of DoRA, in a text encoder of transformers 5; LyCORIS, and our reader, have all of it.</summary>
    private static readonly string[] s_halfRead = ["lora-kohya", "dora-diffusers"];

    /// <summary>Name, configuration, format, who reads it.</summary>
    private static readonly (string Name, string Config, DiffusionAdapterFormat Format, string Reader)[] s_files =
    [
        ("lora-diffusers", """{"peft_type":"LORA","r":3,"lora_alpha":5}""", DiffusionAdapterFormat.Diffusers, "diffusers"),
        ("lora-kohya", """{"peft_type":"LORA","r":3,"lora_alpha":5}""", DiffusionAdapterFormat.Kohya, "diffusers"),
        ("lora-kohya-lycoris", """{"peft_type":"LORA","r":3,"lora_alpha":5}""", DiffusionAdapterFormat.Kohya, "lycoris"),
        ("dora-diffusers", """{"peft_type":"LORA","r":3,"lora_alpha":5,"use_dora":true}""", DiffusionAdapterFormat.Diffusers, "diffusers"),
        ("loha", """{"peft_type":"LYCORIS","algo":"loha","network_dim":3,"network_alpha":2}""", DiffusionAdapterFormat.LyCORIS, "lycoris"),
        ("lokr", """{"peft_type":"LYCORIS","algo":"lokr","network_dim":2,"network_alpha":2,"factor":4}""", DiffusionAdapterFormat.LyCORIS, "lycoris"),
        ("locon", """{"peft_type":"LYCORIS","algo":"locon","network_dim":3,"conv_dim":2,"network_alpha":2}""", DiffusionAdapterFormat.LyCORIS, "lycoris"),
        ("full", """{"peft_type":"LYCORIS","algo":"full"}""", DiffusionAdapterFormat.LyCORIS, "lycoris"),
        ("diag-oft", """{"peft_type":"LYCORIS","algo":"diag-oft","network_dim":4}""", DiffusionAdapterFormat.LyCORIS, "lycoris"),
        ("boft", """{"peft_type":"LYCORIS","algo":"boft","network_dim":4}""", DiffusionAdapterFormat.LyCORIS, "lycoris"),
        ("glora", """{"peft_type":"LYCORIS","algo":"glora","network_dim":2,"network_alpha":2}""", DiffusionAdapterFormat.LyCORIS, "lycoris"),
    ];

    [SkippableFact]
    public void Files_written_here_compute_the_same_in_diffusers_and_LyCORIS()
    {
        var peer = PythonPeer.Find();
        Skip.If(peer is null, "no Python peer (PEFT_PEER_PYTHON names one)");
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = TinyStableDiffusion.Create(folder.Path);
        model.Save(folder["model"]);
        model.Save(folder["whole.safetensors"]);
        var inputs = Inputs(folder["inputs.safetensors"]);
        Dictionary<string, IReadOnlyDictionary<string, Tensor>> ours = [];
        var files = new JsonArray();
        foreach (var (name, config, format, reader) in s_files)
        {
            var document = (JsonObject)JsonNode.Parse(config)!;
            document["target_modules"] = JsonNode.Parse(Targets);
            Perturb(model.AddAdapter(AdapterConfig.FromJson(document), "a", 1));
            DiffusionAdapterFile.Save(model, "a", folder[$"{name}.safetensors"], format);
            Take(name, reader, null);
            model.RemoveAdapter("a");
        }

        // diffusers' strengths by block, on what it has them for.
        var blocks = new JsonObject { ["down"] = 0.3, ["mid"] = 2, ["up"] = new JsonObject { ["block_1"] = new JsonArray(0.5, -1) } };
        Perturb(model.AddAdapter(AdapterConfig.FromJson((JsonObject)JsonNode.Parse("""{"peft_type":"LORA","r":2,"target_modules":["to_q","to_v"]}""")!), "a", 1));
        DiffusionAdapterFile.Save(model, "a", folder["blocks.safetensors"], DiffusionAdapterFormat.Diffusers);
        model.SetActive([new ActiveAdapter("a") { Modules = BlockStrengths.Of(model.Base, blocks) }]);
        Take("blocks", "diffusers", blocks.DeepClone());
        model.RemoveAdapter("a");

        Perturb(model.AddAdapter(new TextualInversionConfig { Token = "<toy>", Vectors = 2, StartText = "bird" }, "a"));
        DiffusionAdapterFile.Save(model, "a", folder["inversion.safetensors"], DiffusionAdapterFormat.Diffusers);
        Take("inversion", "inversion", null);

        var manifest = folder["manifest.json"];
        JsonFile.Write(manifest, new JsonObject { ["model"] = folder["model"], ["inputs"] = folder["inputs.safetensors"], ["files"] = files, ["checkpoint"] = folder["whole.safetensors"] });
        peer.Run(Path.Combine(RepositoryRoot.Folder, "tests", "Peer", "diffusion.py"), manifest);
        using var checkpoint = DiffusionModelFiles.Load(folder["whole.ckpt"], configPath: folder["model"]);
        Assert.All(
            model.Base.NamedParameters().Zip(checkpoint.Base.NamedParameters()),
            static pair => Assert.True(pair.First.Path == pair.Second.Path && pair.First.Parameter.Data.equal(pair.Second.Parameter.Data).all().item<bool>(), pair.First.Path));
        var wrong = ours.SelectMany(entry => Differences(folder[$"{entry.Key}.safetensors"], entry.Value).Select(difference => $"{entry.Key}: {difference}")).ToArray();
        Assert.True(wrong.Length == 0, string.Join('\n', wrong));

        void Take(string name, string reader, JsonNode? scales)
        {
            ours[name] = Outputs(model, inputs).Where(entry => entry.Key == DiffusionModel.UNetName || !s_halfRead.Contains(name)).ToDictionary();
            files.Add(new JsonObject { ["path"] = folder[$"{name}.safetensors"], ["reader"] = reader, ["scales"] = scales });
        }
    }

    private static Dictionary<string, Tensor> Inputs(string path)
    {
        Dictionary<string, Tensor> inputs = new()
        {
            ["sample"] = randn(2, 4, 8, 8), ["timestep"] = tensor(new[] { 700L, 100 }), ["states"] = randn(2, 8, 64), ["input_ids"] = tensor(new long[,] { { 0, 2, 10, 11, 5, 1, 1, 1 }, { 0, 3, 10, 4, 1, 1, 1, 1 } }),
        };
        SafetensorsWriter.Write(path, [.. inputs.Select(static entry => (entry.Key, entry.Value))]);
        return inputs;
    }

    private static Dictionary<string, Tensor> Outputs(PeftModel model, Dictionary<string, Tensor> inputs)
    {
        var parts = (DiffusionModel)model.Base;
        var pass = model.NewPass(new ForwardContext());
        var isInversion = model["a"].Config is TextualInversionConfig;

        // Words without vectors are none to the others.
        var ids = isInversion ? inputs["input_ids"] : inputs["input_ids"].clamp_max(9);
        return new()
        {
            ["unet"] = parts.Predict(inputs["sample"], [700, 100], new TextCondition(inputs["states"]), null, pass),
            ["text_encoder"] = parts.EncodeText([ids], pass).States,
        };
    }

    private static void Perturb(PeftAdapter adapter)
    {
        manual_seed(2);
        foreach (var parameter in adapter.TrainableParameters)
        {
            parameter.Parameter.Data.add_(randn([.. parameter.Parameter.Shape]) * 0.1);
        }
    }

    private static IEnumerable<string> Differences(string file, IReadOnlyDictionary<string, Tensor> ours)
    {
        if (File.Exists(file + ".error"))
        {
            return [File.ReadAllText(file + ".error")];
        }

        using var theirs = SafetensorsFile.Open(file + ".outputs");
        return [.. ours.Where(entry => theirs.Contains(entry.Key)).Select(entry => (entry.Key, Gap: theirs.Read(entry.Key).sub(entry.Value).abs().max().item<float>() / (1 + entry.Value.abs().max().item<float>())))
            .Where(static entry => !(entry.Gap < 2e-5)).Select(static entry => FormattableString.Invariant($"{entry.Key} differs by {entry.Gap:G3}"))];
    }
}
