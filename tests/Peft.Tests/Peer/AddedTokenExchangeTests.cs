using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Files;
using Peft.Models;
using Peft.Tensors;
using Peft.Tests.Adapters;
using Peft.Tests.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Peer;

/// <summary>Models and adapters with added tokens, read by transformers and PEFT.</summary>
public class AddedTokenExchangeTests
{
    private const string Text = "The cat <think> sat </think> here";

    [SkippableTheory]
    [InlineData(true)]
    [InlineData(false)]
    public void Added_tokens_are_the_same_on_the_other_side(bool isTrained)
    {
        var peer = PythonPeer.Find();
        Skip.If(peer is null, "no Python peer (PEFT_PEER_PYTHON names one)");
        using var noGradients = no_grad();
        using var folder = new TemporaryFolder();
        using var model = PeftModel.Load(PocketLlama.Folder, new LoadOptions { DataType = ScalarType.Float32 });
        var ids = model.AddTokens([new NewToken("<think>", "a long thought"), new NewToken("</think>", IsSpecial: true)]);
        model.AddAdapter(new LoraConfig { Rank = 2, TaskType = "CAUSAL_LM", TargetModules = ModuleNames.Of("q_proj"), TrainableTokens = isTrained ? new([.. ids]) : null }, "a", 1).Perturb(2, 0.05);
        var (exported, adapter, manifest) = (folder["model"], folder["adapter"], folder["manifest.json"]);
        model.Save(exported);
        model.SaveAdapter("a", adapter);
        JsonFile.Write(manifest, new JsonObject { ["model"] = exported, ["base"] = PocketLlama.Folder, ["adapter"] = adapter, ["text"] = Text });
        peer.Run(Path.Combine(RepositoryRoot.Folder, "tests", "Peer", "tokens.py"), manifest);

        var cut = tensor([.. model.Tokenizer!.EncodeIds(Text).Select(static id => (long)id)]).unsqueeze(0);
        using var theirs = TensorStore.OpenFile(manifest + ".safetensors");
        Hold(theirs, "model", cut, ModelRun.Logits(model, new Dictionary<string, Tensor> { ["input_ids"] = cut }, AdapterSelection.Base));
        Hold(theirs, "adapter", cut, ModelRun.Logits(model, new Dictionary<string, Tensor> { ["input_ids"] = cut }));
    }

    private static void Hold(TensorStore theirs, string name, Tensor ids, Tensor logits)
    {
        Assert.Equal(ids.data<long>().ToArray(), theirs.Read(name + "_ids").data<long>().ToArray());
        var expected = theirs.Read(name + "_logits");
        Assert.True(expected.sub(logits).abs().max().item<float>() < 1e-4 * (1 + expected.abs().max().item<float>()), name);
    }
}
