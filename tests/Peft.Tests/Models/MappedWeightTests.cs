using Peft.Adapters.Model;
using Peft.Models;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Weights whose files are changed, cut or replaced while a model is loaded from them.</summary>
public sealed class MappedWeightTests : IDisposable
{
    private const int Hidden = 16;
    private const int LargeVocabulary = (int)(MappedFile.SmallestBytes / sizeof(float) / Hidden) + 1;
    private readonly TemporaryFolder _folder = new();

    private string Weights => _folder["model.safetensors"];

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void ALargeFileThatIsWrittenOverEndsInAnErrorInsteadOfAnotherModelOrACrash()
    {
        foreach (var cut in (long[])[0, 1000])
        {
            Save(LargeVocabulary, 1);
            using var model = PeftModel.Load(_folder.Path);
            using (var file = new FileStream(Weights, FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
            {
                file.Seek(-100, SeekOrigin.End);
                file.Write(new byte[100]);
                file.SetLength(file.Length - cut);
            }

            File.SetLastWriteTimeUtc(Weights, DateTime.UtcNow.AddSeconds(5));
            Assert.Equal("FileChanged", Assert.Throws<PeftException>(() => model.Acquire("generating")).ErrorId);
            File.Delete(Weights);
        }
    }

    [Fact]
    public void ALargeFileMayBeReplacedAndDeleted()
    {
        Save(LargeVocabulary, 1);
        using var model = PeftModel.Load(_folder.Path);
        Save(LargeVocabulary, 2);
        model.Acquire("generating").Dispose();
        Assert.Equal(1, LastWeight(model));
        using var other = PeftModel.Load(_folder.Path);
        Assert.Equal(2, LastWeight(other));
        File.Delete(Weights);
        other.Acquire("generating").Dispose();
        Assert.Equal(2, LastWeight(other));
    }

    [Fact]
    public void ASmallFileMayBeWrittenOver()
    {
        Save(10, 1);
        using var model = PeftModel.Load(_folder.Path);
        File.WriteAllBytes(Weights, []);
        model.Acquire("generating").Dispose();
        Assert.Equal(1, LastWeight(model));
    }

    private static float LastWeight(PeftModel model) => model.Base.FindParameter("lm_head.weight")!.Data[-1, -1].item<float>();

    private void Save(int vocabulary, int value)
    {
        using var model = ArchitectureRegistry.Create(ModelConfig.FromText($$"""
            {
              "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": {{vocabulary}}, "hidden_size": {{Hidden}}, "intermediate_size": 8,
              "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6
            }
            """));
        foreach (var (_, parameter, _) in model.NamedParameters())
        {
            parameter.Assign(full([.. parameter.Shape], value, ScalarType.Float32));
        }

        model.Prepare();
        ModelLoader.Save(model, _folder.Path);
    }
}
