using Peft.Adapters.Model;
using Peft.Diffusion;
using Peft.Diffusion.Models;
using Peft.Files;
using Peft.Models;
using Peft.Tensors;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>Checkpoints in one file against diffusers: every tensor where it belongs, outputs, and the same file written again.</summary>
public sealed class DiffusionCheckpointGoldenTests
{
    [GoldenTheory]
    [GoldenData("diffusion", "ldm/")]
    public void A_checkpoint_in_one_file_is_read_as_diffusers_reads_it_and_written_again(string path) => GoldenCases.Run("diffusion", path, static folder =>
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var temporary = new TemporaryFolder();
        var expected = JsonFile.Read(Path.Combine(folder, "case.json"));
        var source = Path.Combine(folder, expected.GetProperty("files").EnumerateArray().Select(static file => file.GetString()!).Single(static file => file.EndsWith(".safetensors", StringComparison.Ordinal)));
        var configuration = GoldenCases.PathOf("diffusion", expected.GetProperty("arguments").GetProperty("model").GetString()!);
        var options = new LoadOptions { DataType = ScalarType.Float32 };
        using var model = DiffusionModelFiles.Load(source, options, configPath: configuration);
        using var file = SafetensorsFile.Open(source);
        var rows = JsonFile.Read(Path.Combine(folder, "key_map.json")).EnumerateArray().ToArray();
        foreach (var row in rows)
        {
            string[] keys = row[2].ValueKind == System.Text.Json.JsonValueKind.String ? [row[2].GetString()!] : [.. row[2].EnumerateArray().Select(static key => key.GetString()!)];
            var part = ((DiffusionModel)model.Base).Parts.Single(part => part.Name == row[1].GetString()).Part;
            var values = keys.Select(key => Find(part, key).Data).ToArray();
            var stored = file.Read(row[0].GetString()!, ScalarType.Float32);
            var whole = values.Length > 1 ? cat(values, 0) : row[3].GetString() == "transpose" ? values[0].t() : values[0].reshape(stored.shape);
            Assert.True(whole.eq(stored).all().item<bool>(), row[0].GetString());
        }

        Outputs(model, expected.GetProperty("tolerance"), Path.Combine(folder, "data.safetensors"));

        // And back: what is left out is what nobody computes with.
        var again = Path.Combine(temporary.Path, "again.safetensors");
        model.Save(again, file.Entry(rows[0][0].GetString()!).ScalarType);
        using var written = SafetensorsFile.Open(again);
        Assert.Equal(rows.Select(static row => row[0].GetString()!).Order(StringComparer.Ordinal), written.Names.Order(StringComparer.Ordinal));
        Assert.All(written.Names, name => Assert.True(written.Read(name).eq(file.Read(name)).all().item<bool>(), name));
    });

    private static void Outputs(PeftModel model, System.Text.Json.JsonElement tolerance, string data)
    {
        using var recorded = SafetensorsFile.Open(data);
        foreach (var (name, actual) in DiffusionProbe.Outputs(model, recorded))
        {
            TensorAssert.Close(recorded.Read("output." + name), actual, tolerance, name);
        }
    }

    private static Parameter Find(PretrainedModel part, string key)
    {
        var plain = key.StartsWith("text_model.", StringComparison.Ordinal) ? key["text_model.".Length..] : key;
        return part.NamedParameters().Single(named => named.Path[(part.Path.Length + 1)..] is var path && (path == key || path == plain || path == "text_model." + plain)).Parameter;
    }
}

/// <summary>The pass that adapter and checkpoint cases record: the UNet's output, and the last states of each text encoder.</summary>
internal static class DiffusionProbe
{
    /// <summary>What a model gives for recorded inputs, by part.</summary>
    public static IEnumerable<(string Part, Tensor Output)> Outputs(PeftModel model, SafetensorsFile inputs)
    {
        foreach (var (name, part) in ((DiffusionModel)model.Base).Parts.Where(static part => part.Part is not AutoencoderKL))
        {
            yield return (name, Output(part, inputs, model.NewPass(new ForwardContext())));
        }
    }

    /// <summary>What a part gives for recorded inputs.</summary>
    public static Tensor Output(PretrainedModel part, SafetensorsFile inputs, ForwardContext pass)
    {
        if (part is UNet2DConditionModel unet)
        {
            return UNet(unet, inputs, pass);
        }

        var output = part.Forward(inputs.Read("input_ids"), pass);
        return output.Hidden.view(output.Rows, output.Length, -1);
    }

    private static Tensor UNet(UNet2DConditionModel unet, SafetensorsFile inputs, ForwardContext pass)
    {
        var text = inputs.Read("input.encoder_hidden_states");
        Tensor? Maybe(string name) => inputs.Contains(name) ? inputs.Read(name) : null;
        return unet.Forward(
            new UNetInputs(inputs.Read("input.sample"), inputs.Read("input.timestep"), new BackboneOutput(text.reshape(-1, text.size(2)), text.size(0), text.size(1)))
            {
                PooledText = Maybe("input.text_embeds"),
                Sizes = Maybe("input.time_ids"),
            },
            pass);
    }
}
