using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Files;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Quantization;
using Peft.Tensors;
using Peft.Tests.Golden;
using Peft.Tests.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Peer;

/// <summary>Models that were imported from single files, saved as folders and loaded by transformers.</summary>
public class ModelExchangeTests
{
    private static readonly string[] s_texts = ["Hello world", "  two spaces, 123 numbers", "naïve 東京 🙂", "a\n\nb"];

    [SkippableFact]
    public void A_model_of_one_file_becomes_a_folder_that_transformers_reads_with_its_tokenizer()
    {
        var peer = PythonPeer.Find();
        Skip.If(peer is null, "no Python peer (PEFT_PEER_PYTHON names one)");
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        var models = Import(folder);
        Skip.If(models.Count == 0, "no reference case has a model with its vocabulary in one file");
        try
        {
            var manifest = folder["manifest.json"];
            JsonFile.Write(manifest, new JsonObject { ["models"] = Strings(models.Keys), ["texts"] = Strings(s_texts) });
            peer.Run(Path.Combine(RepositoryRoot.Folder, "tests", "Peer", "models.py"), manifest);
            foreach (var (saved, model) in models)
            {
                HoldToPeer(saved, model);
            }
        }
        finally
        {
            foreach (var model in models.Values)
            {
                model.Dispose();
            }
        }
    }

    [SkippableTheory]
    [InlineData("""{ "load_in_4bit": true, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true }""")]
    [InlineData("""{ "load_in_4bit": true, "blocksize": 32 }""")]
    public void A_model_that_was_quantised_here_is_loaded_by_transformers(string fields)
    {
        var peer = PythonPeer.Find();
        Skip.If(peer is null, "no Python peer (PEFT_PEER_PYTHON names one)");
        Skip.IfNot(HasBitsAndBytes(peer), "the peer has no bitsandbytes");
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        using var model = PeftModel.Load(PocketLlama.Folder, new LoadOptions { DataType = ScalarType.Float32 });
        model.Quantize(QuantizationConfig.FromJson((JsonObject)JsonNode.Parse(fields)!));
        model.Save(folder["quantised"]);
        JsonFile.Write(folder["manifest.json"], new JsonObject { ["models"] = Strings([folder["quantised"]]), ["texts"] = Strings(s_texts) });
        peer.Run(Path.Combine(RepositoryRoot.Folder, "tests", "Peer", "models.py"), folder["manifest.json"]);

        // Its kernel for the processor multiplies in bfloat16.
        HoldToPeer(folder["quantised"], model, 1e-2);
    }

    private static bool HasBitsAndBytes(PythonPeer peer)
    {
        try
        {
            peer.Run("-c", "import bitsandbytes");
            return true;
        }
        catch (InvalidOperationException)
        {
            return false;
        }
    }

    private static Dictionary<string, PeftModel> Import(TemporaryFolder folder)
    {
        var models = new Dictionary<string, PeftModel>();
        foreach (var path in GoldenCases.Enumerate("gguf").Where(static path => File.Exists(Path.Combine(GoldenCases.PathOf("gguf", path), "tokenizer.json"))))
        {
            var model = PeftModel.Load(Path.Combine(GoldenCases.PathOf("gguf", path), "model.gguf"));
            if (HasTokenizer(model))
            {
                var saved = folder[path.Replace('/', '-')];
                model.Save(saved);
                models.Add(saved, model);
            }
            else
            {
                model.Dispose();
            }
        }

        return models;
    }

    private static bool HasTokenizer(PeftModel model)
    {
        try
        {
            return model.Tokenizer is not null;
        }
        catch (PeftException)
        {
            // A case of the blocks alone has weights and no vocabulary worth the name.
            return false;
        }
    }

    private static void HoldToPeer(string folder, PeftModel model, double tolerance = 1e-4)
    {
        var read = JsonFile.ReadNode(Path.Combine(folder, "peer.json"));
        for (var i = 0; i < s_texts.Length; i++)
        {
            Assert.Equal(read["texts"]![i]!.AsArray().Select(static id => (int)id!), model.RequiredTokenizer.EncodeIds(s_texts[i]));
        }

        Assert.Equal(read["end"]!.AsArray().Select(static id => (int)id!), model.EndOfTextIds);
        Assert.Equal((string?)read["template"], model.RequiredTokenizer.ChatTemplates.Source("default"));
        using var file = TensorStore.OpenFile(Path.Combine(folder, "logits.safetensors"));
        var network = (CausalModel)model.Base;
        var context = new ForwardContext();
        var gap = file.Read("logits").sub(network.Logits(network.Forward(file.Read("ids"), context), context).view_as(file.Read("logits"))).abs().max().item<float>();
        Assert.True(gap < tolerance * (1 + file.Read("logits").abs().max().item<float>()), $"{folder}: largest difference {gap}");
    }

    private static JsonArray Strings(IEnumerable<string> texts) => new([.. texts.Select(static text => JsonValue.Create(text))]);
}
