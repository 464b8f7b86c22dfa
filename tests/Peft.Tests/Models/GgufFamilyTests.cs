using System.Runtime.InteropServices;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tests.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Families whose GGUF files differ from Llama's: a model is written by llama.cpp's names and read back.</summary>
public class GgufFamilyTests
{
    [Theory]
    [InlineData("qwen2")]
    [InlineData("qwen3")]
    public void AModelIsTheSameInAGgufFile(string family)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var folder = new TemporaryFolder();
        using var model = (CausalModel)ArchitectureRegistry.Create(ModelConfig.FromText($$"""
            {
              "model_type": "{{family}}", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 500
            }
            """));
        foreach (var (_, parameter, _) in model.NamedParameters())
        {
            parameter.Assign(randn([.. parameter.Shape]).mul_(0.5));
        }

        using var again = (CausalModel)ModelLoader.Load(folder.Write("model.gguf", Write(model, family)));
        Assert.Equal(model.ClassName, again.ClassName);
        var ids = tensor(new long[,] { { 3, 7, 21, 30, 5 } });
        var context = new ForwardContext();
        TensorAssert.CloseToScale(model.Logits(model.Forward(ids, context), context), again.Logits(again.Forward(ids, context), context), 1e-5, "logits");
    }

    private static byte[] Write(CausalModel model, string architecture)
    {
        var bytes = new GgufBytes();
        bytes.Text("general.architecture", architecture);
        foreach (var (key, value) in new[]
        {
            ("embedding_length", 16u), ("feed_forward_length", 24u), ("block_count", 2u), ("attention.head_count", 4u), ("attention.head_count_kv", 2u),
            ("attention.key_length", 8u), ("context_length", 64u),
        })
        {
            bytes.Number($"{architecture}.{key}", value);
        }

        bytes.Value($"{architecture}.attention.layer_norm_rms_epsilon", 6, BitConverter.GetBytes(1e-6f));
        bytes.Value($"{architecture}.rope.freq_base", 6, BitConverter.GetBytes(500f));
        var map = model.Config.Family.Gguf!;
        List<byte> data = [];
        foreach (var (path, parameter, _) in model.NamedParameters())
        {
            var dot = path.LastIndexOf('.');
            var layer = path.Split('.') is ["model", "layers", var index, ..] ? index : null;
            var name = layer is null
                ? map.Whole.Single(pair => pair.Value == path[..dot]).Key
                : $"blk.{layer}." + map.InLayer.Single(pair => $"model.layers.{layer}.{pair.Value}" == path[..dot]).Key;
            bytes.Tensor(name + path[dot..], 0, (ulong)data.Count, [.. parameter.Shape.Reverse().Select(static size => (ulong)size)]);
            data.AddRange(MemoryMarshal.AsBytes(parameter.Data.contiguous().data<float>().ToArray().AsSpan()));
            data.AddRange(new byte[(32 - (data.Count % 32)) % 32]);
        }

        bytes.Data = [.. data];
        return bytes.Bytes();
    }
}
