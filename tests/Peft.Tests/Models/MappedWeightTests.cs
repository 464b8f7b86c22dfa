using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
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

    [Fact]
    public void WeightsOfALargeFileAreJoinedWhenTheyAreFirstUsedAndLieInTheFileUntilThen()
    {
        var expected = Save(LargeVocabulary, null);
        using var model = PeftModel.Load(_folder.Path);
        string[] projections = [.. ((string[])["q_proj", "k_proj", "v_proj"]).Select(static name => $"model.layers.0.self_attn.{name}.weight")];
        string[] gated = ["model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"];
        var before = Places(model, [.. projections, .. gated]);

        Assert.Equal(expected, Logits(model.Base));
        Assert.NotEqual(before[..3], Places(model, projections));
        Assert.True(AreBehind(model, projections));

        // Gate and up follow one another in the file: they are one tensor there.
        Assert.Equal(before[3..], Places(model, gated));
        Assert.True(AreBehind(model, gated));
        Assert.Equal(expected, Logits(model.Base));
    }

    [Fact]
    public void WeightsThatAreReplacedBeforeTheirFirstUseAreComputedWithAsTheyAre()
    {
        Save(LargeVocabulary, 1);
        using var changed = PeftModel.Load(_folder.Path);
        using var first = PeftModel.Load(_folder.Path);
        Logits(first.Base);
        foreach (var model in (PeftModel[])[changed, first])
        {
            model.Base.FindParameter("model.layers.0.self_attn.k_proj.weight")!.Assign(linspace(-1, 1, Hidden * Hidden).view(Hidden, Hidden));
        }

        Assert.Equal(Logits(first.Base), Logits(changed.Base));
    }

    [SkippableFact]
    public void JoinedLayersLeaveNoPagesOfTheirFileBesideTheirCopy()
    {
        Skip.IfNot(OperatingSystem.IsLinux(), "Elsewhere the system decides by itself which pages stay.");
        const int Layers = 5, Width = 1024;
        Save(64, null, Width, Layers);
        using var model = PeftModel.Load(_folder.Path);
        Logits(model.Base);
        long joined = 3L * Layers * Width * Width * sizeof(float), file = new FileInfo(Weights).Length;
        Assert.InRange(Resident(Weights), 1, file - joined + (joined / 10));
    }

    [SkippableTheory]
    [InlineData(null, 0)]
    [InlineData(1, 1)]
    public void A_table_and_a_head_are_compared_up_to_the_first_difference_and_what_is_shared_leaves_one_of_them_in_memory(int? value, int tables)
    {
        Skip.IfNot(OperatingSystem.IsLinux(), "Elsewhere the system decides by itself which pages stay.");
        Save(LargeVocabulary, value);
        using var model = PeftModel.Load(_folder.Path);
        var table = (long)LargeVocabulary * Hidden * sizeof(float);
        Assert.InRange(Resident(Weights), 0, (tables * table) + (table / 8));
    }

    [Fact]
    public void Tensors_are_compared_by_their_values_whatever_their_types_and_places()
    {
        using var scope = NewDisposeScope();
        var values = randn(40, 50);
        var other = values.clone();
        Assert.True(TensorMemory.AreEqual(values, other));
        Assert.True(TensorMemory.AreEqual(values.to(ScalarType.Float64), other));
        Assert.True(TensorMemory.AreEqual(values.t(), other.t().contiguous()));
        other[39, 49] = 7;
        Assert.False(TensorMemory.AreEqual(values, other));
        Assert.False(TensorMemory.AreEqual(values.t(), other.t()));
    }

    /// <summary>How many bytes of a mapped file are in this process's memory.</summary>
    private static long Resident(string path)
    {
        long sum = 0;
        var counts = false;
        foreach (var line in File.ReadLines("/proc/self/smaps"))
        {
            if (line.Contains('-', StringComparison.Ordinal) && char.IsAsciiHexDigitLower(line[0]))
            {
                counts = line.EndsWith(path, StringComparison.Ordinal);
            }
            else if (counts && line.StartsWith("Rss:", StringComparison.Ordinal))
            {
                sum += 1024 * long.Parse(line[4..^2], System.Globalization.CultureInfo.InvariantCulture);
            }
        }

        return sum;
    }

    private static nint[] Places(PeftModel model, string[] names) => [.. names.Select(name => TensorMemory.Address(model.Base.FindParameter(name)!.Data))];

    private static bool AreBehind(PeftModel model, string[] names) =>
        names.Zip(names.Skip(1)).All(pair => Places(model, [pair.Second])[0] == Places(model, [pair.First])[0] + (nint)model.Base.FindParameter(pair.First)!.Bytes);

    private static float[] Logits(PretrainedModel model)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var pass = new ForwardContext();
        return [.. ((CausalModel)model).Logits(model.Forward(tensor((long[])[1, 5, 3], 1, 3), pass), pass)[.., ..50].contiguous().data<float>()];
    }

    private static float LastWeight(PeftModel model) => model.Base.FindParameter("lm_head.weight")!.Data[-1, -1].item<float>();

    /// <summary>Saves a model of one value everywhere, or of random ones; the first logits that it gives.</summary>
    private float[] Save(int vocabulary, int? value, int hidden = Hidden, int layers = 1)
    {
        using var model = ArchitectureRegistry.Create(ModelConfig.FromText($$"""
            {
              "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": {{vocabulary}}, "hidden_size": {{hidden}}, "intermediate_size": 8,
              "num_hidden_layers": {{layers}}, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6
            }
            """));
        foreach (var (_, parameter, _) in model.NamedParameters())
        {
            parameter.Assign(value is { } same ? full([.. parameter.Shape], same, ScalarType.Float32) : randn([.. parameter.Shape]));
        }

        model.Prepare();
        ModelLoader.Save(model, _folder.Path);
        return Logits(model);
    }
}
