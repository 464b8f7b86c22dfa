using System.Text;
using Peft.Models;
using Peft.Models.Gguf;
using Peft.Tensors.Gguf;
using static TorchSharp.torch;

namespace Peft.Tests.Tensors;

public sealed class GgufTests : TensorFileTests
{
    [Fact]
    public void ArraysAreReadOnceAndKept()
    {
        using var file = GgufFile.Open(Folder.Write("a.gguf", Sample().Bytes()));
        Assert.Same(file.Metadata["tokens"], file.Metadata.GetArray<string>("tokens"));
        Assert.Equal(["a", "ü"], file.Metadata.GetArray<string>("tokens")!);
        Assert.Equal(7, file.Metadata.GetInteger("number"));
        Assert.Equal(5, file.Metadata.GetInteger("absent", 5));
        Assert.Null(file.Metadata.GetText("absent"));
        Assert.Equal("GgufKeyMissing", Assert.Throws<PeftException>(() => file.Metadata["absent"]).ErrorId);
        Assert.Equal("GgufValueInvalid", Assert.Throws<PeftException>(() => file.Metadata.GetInteger("tokens")).ErrorId);
        Assert.Equal("GgufValueInvalid", Assert.Throws<PeftException>(() => file.Metadata.GetText("number")).ErrorId);
        Assert.Equal("GgufValueInvalid", Assert.Throws<PeftException>(() => file.Metadata.GetArray<int>("tokens")).ErrorId);
        Assert.Equal([1f, 2f, 3f, 4f], file.Read("x").data<float>().ToArray());
    }

    [Theory]
    [InlineData("GgufNoMagic", "magic")]
    [InlineData("GgufVersionNotSupported", "version")]
    [InlineData("GgufTruncated", "tensors")]
    [InlineData("GgufTruncated", "values")]
    [InlineData("GgufDuplicateName", "key")]
    [InlineData("GgufDuplicateName", "tensor")]
    [InlineData("GgufTypeInvalid", "type")]
    [InlineData("GgufTypeInvalid", "depth")]
    [InlineData("GgufTypeNotSupported", "tensorType")]
    [InlineData("GgufAlignmentInvalid", "alignment")]
    [InlineData("GgufOffsetInvalid", "offset")]
    [InlineData("GgufTruncated", "far")]
    [InlineData("GgufShapeInvalid", "overflow")]
    [InlineData("GgufShapeInvalid", "dimensions")]
    [InlineData("GgufShapeInvalid", "block")]
    [InlineData("GgufOverlap", "overlap")]
    public void EveryLieHasItsName(string errorId, string lie)
    {
        var bytes = Sample();
        switch (lie)
        {
            case "magic": bytes.Magic = "GGML"; break;
            case "version": bytes.Version = 1; break;
            case "tensors": bytes.TensorCount = ulong.MaxValue; break;
            case "values": bytes.ValueCount = 1UL << 60; break;
            case "key": bytes.Number("number", 8); break;
            case "tensor": bytes.Tensor("x", 0, 0, 4); break;
            case "type": bytes.Value("odd", 99, []); break;
            case "depth": bytes.Nested("deep", 50); break;
            case "tensorType": bytes.Tensor("y", 999, 32, 4); break;
            case "alignment": bytes.Number("general.alignment", 3); break;
            case "offset": bytes.Tensor("y", 0, 4, 1); break;
            case "far": bytes.Tensor("y", 0, 1UL << 62, 4); break;
            case "overflow": bytes.Tensor("y", 0, 32, 1UL << 32, 1UL << 32); break;
            case "dimensions": bytes.Tensor("y", 0, 32, 1, 1, 1, 1, 1, 1, 1, 1, 1); break;
            case "block": bytes.Tensor("y", 8, 32, 33); break;
            default: bytes.Tensor("y", 0, 0, 4); break;
        }

        Assert.Equal(errorId, Assert.ThrowsAny<PeftException>(() => GgufFile.Open(Folder.Write("a.gguf", bytes.Bytes()))).ErrorId);
    }

    [Fact]
    public void AFileCutAnywhereIsAnErrorAndAFlippedByteNeverCrashes()
    {
        var whole = Sample().Bytes();
        for (var i = 0; i < whole.Length; i++)
        {
            Assert.StartsWith("Gguf", Assert.ThrowsAny<PeftException>(() => GgufFile.Open(Folder.Write("a.gguf", whole[..i]))).ErrorId, StringComparison.Ordinal);
            for (var bit = 0; bit < 8; bit++)
            {
                byte[] flipped = [.. whole];
                flipped[i] ^= (byte)(1 << bit);
                ReadAll(flipped);
            }
        }
    }

    [Fact]
    public void AnArchitectureThatPeftDoesNotKnowIsNamed()
    {
        GgufBytes bytes = new();
        bytes.Text("general.architecture", "mamba");
        var error = Assert.Throws<NotSupportedByPeftException>(() => GgufModel.Open(Folder.Write("a.gguf", bytes.Bytes())));
        Assert.Contains("mamba", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("GgufShapeInvalid", "scalar")]
    [InlineData("GgufValueInvalid", "epsilon")]
    [InlineData("ModelConfigInvalid", "layers")]
    [InlineData("ModelConfigInvalid", "width")]
    public void AModelThatLiesIsRefused(string errorId, string lie)
    {
        GgufBytes bytes = new();
        bytes.Text("general.architecture", "llama");
        bytes.Number("llama.attention.head_count", 2);
        bytes.Number("llama.embedding_length", lie == "width" ? 0u : 4);
        bytes.Number("llama.feed_forward_length", 8);
        bytes.Number("llama.block_count", lie == "layers" ? 1_000_000_000u : 1);
        bytes.Number("llama.context_length", 16);
        bytes.Value("llama.attention.layer_norm_rms_epsilon", 6, BitConverter.GetBytes(lie == "epsilon" ? float.NaN : 1e-5f));
        bytes.Data = new byte[64];
        bytes.Tensor("token_embd.weight", 0, 0, lie == "scalar" ? [] : [4, 2]);
        Assert.Equal(errorId, Assert.ThrowsAny<PeftException>(() => ModelLoader.Load(Folder.Write("a.gguf", bytes.Bytes()))).ErrorId);
    }

    [Fact]
    public void AFolderWithoutOtherWeightsTakesItsOnlyGgufFile()
    {
        Folder.Write("config.json", """{ "model_type": "llama", "vocab_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4 }""");
        Folder.Write("a.gguf", Sample().Bytes());
        Assert.Equal("GgufArchitectureNotSupported", Assert.ThrowsAny<PeftException>(() => ModelLoader.Load(Folder.Path)).ErrorId);
        Folder.Write("b.gguf", Sample().Bytes());
        Assert.Equal("WeightsNotFound", Assert.ThrowsAny<PeftException>(() => ModelLoader.Load(Folder.Path)).ErrorId);
    }

    [Theory]
    [InlineData(1f, 1f)]
    [InlineData(2f, 8f)]
    public void FactorsOfRotaryFrequenciesDivideThem(float first, float second)
    {
        GgufBytes bytes = new();
        bytes.Text("general.architecture", "llama");
        bytes.Number("llama.attention.head_count", 2);
        bytes.Number("llama.embedding_length", 8);
        bytes.Number("llama.feed_forward_length", 8);
        bytes.Number("llama.block_count", 1);
        bytes.Number("llama.context_length", 16);
        bytes.Value("llama.attention.layer_norm_rms_epsilon", 6, BitConverter.GetBytes(1e-5f));
        bytes.Tensor("token_embd.weight", 0, 0, 8, 1);
        bytes.Tensor("rope_freqs.weight", 0, 32, 2);
        bytes.Data = [.. new byte[32], .. BitConverter.GetBytes(first), .. BitConverter.GetBytes(second), .. new byte[24]];
        using var model = GgufModel.Open(Folder.Write("a.gguf", bytes.Bytes()));
        var config = new ModelConfig(model.CreateConfig());
        var frequencies = new Peft.Models.Layers.RotaryFrequencies(config, 4);
        Assert.Equal(1, frequencies.Scale);
        foreach (var length in (long[])[4, 4000])
        {
            Assert.Equal([1 / first, 0.01f / second], frequencies.For(length), (expected, found) => Math.Abs(expected - found) < 1e-7);
        }
    }

    private static GgufBytes Sample()
    {
        GgufBytes bytes = new();
        bytes.Number("number", 7);
        bytes.Texts("tokens", "a", "ü");
        bytes.Tensor("x", 0, 0, 4);
        bytes.Data = [.. ((float[])[1, 2, 3, 4]).SelectMany(BitConverter.GetBytes)];
        return bytes;
    }

    private void ReadAll(byte[] bytes)
    {
        try
        {
            using var file = GgufFile.Open(Folder.Write("a.gguf", bytes));
            foreach (var key in file.Metadata.Keys)
            {
                _ = file.Metadata[key];
            }

            foreach (var name in file.Names)
            {
                file.Read(name).Dispose();
            }
        }
        catch (PeftException error)
        {
            Assert.StartsWith("Gguf", error.ErrorId, StringComparison.Ordinal);
        }
    }
}
