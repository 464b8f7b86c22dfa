using Peft.Hub;

namespace Peft.Tests.Hub;

public sealed class HubModelFilesTests
{
    [Theory]
    [InlineData("config.json model.safetensors pytorch_model.bin tf_model.h5 onnx/model.onnx tokenizer.json README.md .gitattributes", "config.json model.safetensors tokenizer.json README.md")]
    [InlineData("config.json pytorch_model.bin flax_model.msgpack vocab.txt", "config.json pytorch_model.bin vocab.txt")]
    [InlineData("config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json pytorch_model.bin.index.json consolidated.safetensors", "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json")]
    [InlineData("adapter_config.json adapter_model.safetensors training_args.bin optimizer.pt", "adapter_config.json adapter_model.safetensors")]
    [InlineData("README.md model.gguf", "README.md model.gguf")]
    [InlineData("model_index.json unet/config.json unet/diffusion_pytorch_model.safetensors unet/diffusion_pytorch_model.bin", "model_index.json unet/config.json unet/diffusion_pytorch_model.safetensors")]
    public void Fetches_what_a_model_is_made_of_once(string all, string chosen) =>
        Assert.Equal(chosen.Split(' '), HubModelFiles.Choose(Files(all)).Select(static file => file.Path));

    [Fact]
    public void Several_quantisations_are_named_and_one_is_asked_for()
    {
        var files = Files("m-Q4_K_M.gguf m-Q8_0.gguf");
        var error = Assert.Throws<PeftException>(() => HubModelFiles.Choose(files));
        Assert.Equal("HubFileAmbiguous", error.ErrorId);
        Assert.Contains("m-Q8_0.gguf", error.Message, StringComparison.Ordinal);
        Assert.Equal("m-Q8_0.gguf", Assert.Single(HubModelFiles.Match(files, ["*Q8_0.gguf"], [])).Path);
        Assert.Equal("HubFileNotFound", Assert.Throws<PeftException>(() => HubModelFiles.Match(files, ["*.bin"], [])).ErrorId);
    }

    private static HubFile[] Files(string names) => [.. names.Split(' ').Select(static name => new HubFile(name, 1, new string('0', 40)))];
}
