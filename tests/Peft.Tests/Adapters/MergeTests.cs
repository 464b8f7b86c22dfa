using Peft.Adapters.Merging;
using Peft.Adapters.Methods.AdaLora;
using Peft.Adapters.Methods.Adamss;
using Peft.Adapters.Methods.Beft;
using Peft.Adapters.Methods.Boft;
using Peft.Adapters.Methods.C3A;
using Peft.Adapters.Methods.Deft;
using Peft.Adapters.Methods.Delora;
using Peft.Adapters.Methods.FourierFT;
using Peft.Adapters.Methods.Frod;
using Peft.Adapters.Methods.Glora;
using Peft.Adapters.Methods.GraLora;
using Peft.Adapters.Methods.Hira;
using Peft.Adapters.Methods.Hra;
using Peft.Adapters.Methods.IA3;
using Peft.Adapters.Methods.LnTuning;
using Peft.Adapters.Methods.LoHa;
using Peft.Adapters.Methods.LoKr;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.Miss;
using Peft.Adapters.Methods.Oft;
using Peft.Adapters.Methods.Osf;
using Peft.Adapters.Methods.Peanut;
using Peft.Adapters.Methods.Psoft;
using Peft.Adapters.Methods.Pvera;
using Peft.Adapters.Methods.RandLora;
using Peft.Adapters.Methods.Road;
using Peft.Adapters.Methods.Shira;
using Peft.Adapters.Methods.SuperTuning;
using Peft.Adapters.Methods.TinyLora;
using Peft.Adapters.Methods.UniLora;
using Peft.Adapters.Methods.VbLora;
using Peft.Adapters.Methods.Vera;
using Peft.Adapters.Methods.WaveFT;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

public class MergeTests
{
    private static readonly LoraConfig s_plain = new() { Rank = 2, Alpha = 4, TargetModules = ModuleNames.Of("q_proj", "down_proj") };

    private static readonly Dictionary<string, LayerwiseConfig> s_configs = new()
    {
        ["plain"] = s_plain,
        ["wide"] = new LoraConfig { Rank = 3, Alpha = 2, UseRslora = true, TargetModules = ModuleNames.AllLinear },
        ["embedding"] = new LoraConfig { Rank = 2, Alpha = 3, TargetModules = ModuleNames.Of("embed_tokens", "lm_head") },
        ["biased"] = new LoraConfig { Rank = 2, Alpha = 2, LoraBias = true, TargetModules = ModuleNames.Of("k_proj", "o_proj") },
        ["adapted-biases"] = new LoraConfig { Rank = 2, Alpha = 2, Bias = BiasTraining.Adapted, TargetModules = ModuleNames.Of("o_proj", "up_proj") },
        ["biases"] = new LoraConfig { Rank = 2, Alpha = 2, Bias = BiasTraining.All, TargetModules = ModuleNames.Of("v_proj") },
        ["saved"] = new LoraConfig { Rank = 2, Alpha = 2, TargetModules = ModuleNames.Of("up_proj"), ModulesToSave = ["lm_head", "input_layernorm"] },
        ["ia3"] = new IA3Config { TargetModules = ModuleNames.Of("k_proj", "q_proj", "down_proj"), FeedforwardModules = ModuleNames.Of("down_proj") },
        ["loha"] = new LoHaConfig { Rank = 2, Alpha = 3, TargetModules = ModuleNames.Of("q_proj", "up_proj") },
        ["dora"] = new LoraConfig { Rank = 2, Alpha = 4, UseDora = true, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["pissa"] = new LoraConfig { Rank = 2, Alpha = 4, Initialisation = "pissa", TargetModules = ModuleNames.Of("q_proj", "o_proj") },
        ["delora"] = new DeloraConfig { Rank = 2, Lambda = 2, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["miss-bat"] = new MissConfig { Rank = 4, Initialisation = "bat", TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["shira"] = new ShiraConfig { Rank = 1, TargetModules = ModuleNames.Of("q_proj", "up_proj") },
        ["adalora"] = new AdaLoraConfig { InitialRank = 3, TargetRank = 2, Alpha = 4, TargetModules = ModuleNames.Of("q_proj", "down_proj"), StartAtZero = false },
        ["vera"] = new VeraConfig { Rank = 4, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["oft"] = new OftConfig { BlockSize = 4, TargetModules = ModuleNames.Of("q_proj", "embed_tokens") },
        ["boft"] = new BoftConfig { BlockSize = 4, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["hra"] = new HraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["vblora"] = new VbLoraConfig { Rank = 2, VectorCount = 6, VectorLength = 4, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["randlora"] = new RandLoraConfig { Rank = 4, Alpha = 8, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["fourierft"] = new FourierFTConfig { FrequencyCount = 9, Scaling = 20, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["norms"] = new LnTuningConfig { TargetModules = ModuleNames.Of("post_attention_layernorm", "norm") },
        ["road"] = new RoadConfig { GroupSize = 4, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["gralora"] = new GraLoraConfig { Rank = 4, HybridRank = 2, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["c3a"] = new C3AConfig { BlockSize = 4, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["unilora"] = new UniLoraConfig { Rank = 2, VectorLength = 24, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["tinylora"] = new TinyLoraConfig { Rank = 2, WeightCount = 3, WeightTying = 0.5, TargetModules = ModuleNames.Of("q_proj", "embed_tokens") },
        ["pvera"] = new PveraConfig { Rank = 4, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["hira"] = new HiraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj", "embed_tokens") },
        ["waveft"] = new WaveFTConfig { FrequencyCount = 9, Scaling = 4, WaveletName = "db2", TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["glora"] = new GloraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["beft"] = new BeftConfig { TargetModules = ModuleNames.Of("q_proj", "v_proj") },
        ["deft"] = new DeftConfig { Rank = 2, Alpha = 3, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["peanut"] = new PeanutConfig { Rank = 3, Depth = 1, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["supertuning"] = new SuperTuningConfig { Sparsity = 0.9, Rank = 2, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["psoft"] = new PsoftConfig { Rank = 3, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["osf"] = new OsfConfig { EffectiveRank = 3, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["adamss"] = new AdamssConfig { Rank = 3, SubspaceCount = 2, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["frod"] = new FrodConfig { SparseRate = 0.1, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
        ["lokr"] = new LoKrConfig { Rank = 2, Alpha = 3, TargetModules = ModuleNames.Of("q_proj", "down_proj") },
    };

    public static IEnumerable<object[]> Combinations() =>
        from first in s_configs.Keys
        from second in s_configs.Keys
        where first != second && (s_configs[first].Bias == BiasTraining.None || s_configs[second].Bias == BiasTraining.None) // two copies of a bias conflict
        from third in string.CompareOrdinal(first, second) < 0 ? new[] { null, "plain" } : [null]
        where third != first && third != second
        from type in new[] { ScalarType.Float32, ScalarType.BFloat16 }
        select new object[] { string.Join('+', new[] { first, second, third }.OfType<string>()), type };

    [Theory]
    [MemberData(nameof(Combinations))]
    public void Merged_adapters_compute_what_they_compute_beside_the_weights_and_undo_gives_every_bit_back(string combination, ScalarType type)
    {
        var names = combination.Split('+');
        using var model = TinyLlama.Create(bias: true, type: type);
        Add(model, names);
        model.SetActive(names);
        var inputs = TinyLlama.Inputs();
        var before = ModelBits.Of(model.Base);
        using var beside = ModelRun.Logits(model, inputs);

        model.Merge(options: new MergeOptions { Safe = true });
        using var merged = ModelRun.Logits(model, inputs);
        Assert.Equal(names, model.MergedAdapters);

        model.UndoMerge();
        if (type == ScalarType.Float32)
        {
            AssertClose(beside, merged, 2e-5);
        }
        else
        {
            AssertAsExact(model, inputs, beside, merged);
        }

        Assert.Equal(before, ModelBits.Of(model.Base));
        using var again = ModelRun.Logits(model, inputs);
        AssertClose(beside, again, 0);
    }

    public static IEnumerable<object[]> Methods() => s_configs.Keys.Select(static name => new object[] { name });

    [Theory]
    [MemberData(nameof(Methods))]
    public void Adapters_are_merged_at_their_strengths(string name)
    {
        using var model = TinyLlama.Create(bias: true);
        Add(model, [name]);
        model.AddAdapter(new LoraConfig { Rank = 2, Alpha = 4, TargetModules = ModuleNames.Of("q_proj", "down_proj") }, "beside", 3).Perturb(5);
        var inputs = TinyLlama.Inputs();
        var before = ModelBits.Of(model.Base);
        model.SetActive([new ActiveAdapter(name, 0.6f), new ActiveAdapter("beside", -0.5f) { Modules = new ModuleStrengths([KeyValuePair.Create("model.layers.0", 0.25f)], "first") }]);
        using var beside = ModelRun.Logits(model, inputs);
        model.Merge();
        using var merged = ModelRun.Logits(model, inputs);
        AssertClose(beside, merged, 2e-5);
        model.UndoMerge();
        Assert.Equal(before, ModelBits.Of(model.Base));
        Assert.Equal([0.6f, -0.5f], model.ActiveSet.Select(static entry => entry.Weight));
    }

    [Fact]
    public void A_final_merge_keeps_no_originals_and_is_checked_before_the_first_weight_changes()
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj", "down_proj") }, "a", 1).Perturb(2);
        var bits = ModelBits.Of(model.Base);
        var last = model["a"].Adapter.Layers[^1].Adapter.Parameters[0].Parameter;
        using var good = last.Data.clone();
        last.Data.fill_(float.NaN);
        Assert.Equal("MergeNotFinite", Assert.Throws<PeftException>(() => model.Merge(options: new MergeOptions { Unload = true, Safe = true })).ErrorId);
        Assert.Equal(bits, ModelBits.Of(model.Base));
        Assert.Throws<OperationCanceledException>(() => model.Merge(options: new MergeOptions { Unload = true, Cancellation = new CancellationToken(canceled: true) }));
        Assert.Equal(bits, ModelBits.Of(model.Base));

        last.Data.copy_(good);
        using var beside = ModelRun.Logits(model, TinyLlama.Inputs());
        var memory = model.MemoryBytes - model["a"].Adapter.Parameters().Sum(static parameter => parameter.Parameter.Bytes);
        model.Merge(options: new MergeOptions { Unload = true, Safe = true });
        using var merged = ModelRun.Logits(model, TinyLlama.Inputs());
        Assert.True(beside.sub(merged).abs().max().item<float>() < 1e-4);
        Assert.Equal(memory, model.MemoryBytes);
        Assert.All(model.Base.NamedParameters(), static named => Assert.Null(named.Parameter.Edits));
    }

    [Fact]
    public void Merging_is_the_same_in_either_order()
    {
        using var model = TinyLlama.Create();
        Add(model, ["plain", "wide"]);
        model.Merge(["plain", "wide"]);
        using var one = ModelRun.Logits(model, TinyLlama.Inputs());
        model.UndoMerge();
        model.Merge(["wide", "plain"]);
        using var other = ModelRun.Logits(model, TinyLlama.Inputs());
        AssertClose(one, other, 1e-5);
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    public void A_merge_that_is_not_finite_changes_nothing(float broken)
    {
        using var model = TinyLlama.Create();
        Add(model, ["wide"]);
        var last = model["wide"].TrainableParameters[^1];
        last.Parameter.Data[0, 0].fill_(broken);
        var before = ModelBits.Of(model.Base);

        var error = Assert.Throws<PeftException>(() => model.Merge(options: new MergeOptions { Safe = true }));

        Assert.Equal("MergeNotFinite", error.ErrorId);
        Assert.Contains(last.Module!.Path, error.Message, StringComparison.Ordinal);
        Assert.Equal(before, ModelBits.Of(model.Base));
        Assert.Equal(["wide"], model.ActiveAdapters);
        Assert.False(model.IsMerged);
    }

    [Fact]
    public void A_failed_second_merge_leaves_the_first_in_place()
    {
        using var model = TinyLlama.Create();
        Add(model, ["plain", "wide"]);
        model.Merge(["plain"]);
        var before = ModelBits.Of(model.Base);
        model["wide"].TrainableParameters[0].Parameter.Data[0, 0].fill_(float.NaN);

        Assert.Throws<PeftException>(() => model.Merge(["wide"], new MergeOptions { Safe = true }));

        Assert.Equal(["plain"], model.MergedAdapters);
        Assert.Equal(before, ModelBits.Of(model.Base));
    }

    [Fact]
    public void A_stopped_merge_leaves_the_weights_and_the_merge_before_it()
    {
        using var model = TinyLlama.Create();
        Add(model, ["plain", "wide"]);
        model.Merge(["plain"]);
        var before = ModelBits.Of(model.Base);

        Assert.Throws<OperationCanceledException>(() => model.Merge(["wide"], new MergeOptions { Cancellation = new CancellationToken(canceled: true) }));

        Assert.Equal(["plain"], model.MergedAdapters);
        Assert.Equal(before, ModelBits.Of(model.Base));
    }

    [Theory]
    [InlineData("lm_head")]
    [InlineData("embed_tokens")]
    public void Merging_into_one_of_two_tied_layers_leaves_the_other_as_it_was(string target)
    {
        using var model = TinyLlama.Create(tied: true);
        model.AddAdapter(s_plain with { TargetModules = ModuleNames.Of(target) }, seed: 1).Perturb(2);
        var inputs = TinyLlama.Inputs();
        var before = ModelBits.Of(model.Base);
        using var beside = ModelRun.Logits(model, inputs);

        model.Merge();
        using var merged = ModelRun.Logits(model, inputs);
        AssertClose(beside, merged, 2e-5);
        Assert.False(model.Config.Boolean("tie_word_embeddings"));
        Assert.True(model.Base.FindParameter("lm_head.weight")!.IsOwner);

        model.UndoMerge();
        Assert.Equal(before, ModelBits.Of(model.Base));
        Assert.True(model.Config.Boolean("tie_word_embeddings"));
        Assert.False(model.Base.FindParameter("lm_head.weight")!.IsOwner);
    }

    [Fact]
    public void A_saved_module_of_tied_layers_stays_tied_where_the_configuration_asks_for_it()
    {
        using var model = TinyLlama.Create(tied: true);
        model.AddAdapter(s_plain with { ModulesToSave = ["embed_tokens"], EnsureWeightTying = true }, seed: 1).Perturb(2);
        using var beside = ModelRun.Logits(model, TinyLlama.Inputs());

        model.Merge();
        using var merged = ModelRun.Logits(model, TinyLlama.Inputs());
        AssertClose(beside, merged, 2e-5);
        Assert.False(model.Base.FindParameter("lm_head.weight")!.IsOwner);
    }

    [Fact]
    public void A_merge_in_a_wider_type_rounds_nothing_and_is_undone_bit_for_bit()
    {
        using var model = TinyLlama.Create(type: ScalarType.BFloat16);
        Add(model, ["wide"]);
        var before = ModelBits.Of(model.Base);

        model.Merge(options: new MergeOptions { DataType = ScalarType.Float32 });
        Assert.Equal(ScalarType.Float32, model.DataType);
        using var merged = ModelRun.Logits(model, TinyLlama.Inputs());
        Assert.Equal(ScalarType.Float32, merged.dtype);

        model.UndoMerge();
        Assert.Equal(ScalarType.BFloat16, model.DataType);
        Assert.Equal(before, ModelBits.Of(model.Base));
    }

    [Fact]
    public void What_follows_a_merge_in_a_wider_type_keeps_the_type()
    {
        using var model = TinyLlama.Create(type: ScalarType.BFloat16);
        Add(model, ["plain", "wide"]);
        model.Merge(["plain"], new MergeOptions { DataType = ScalarType.Float32 });
        var before = ModelBits.Of(model.Base);
        var broken = model["wide"].TrainableParameters[0].Parameter.Data[0, 0];
        broken.fill_(float.NaN);

        Assert.Throws<PeftException>(() => model.Merge(["wide"], new MergeOptions { Safe = true }));
        Assert.Equal(before, ModelBits.Of(model.Base));

        model.Merge(options: new MergeOptions { Unload = true });
        Assert.Equal(ScalarType.Float32, model.DataType);
        Assert.Equal(before, ModelBits.Of(model.Base));
    }

    [Fact]
    public void Merging_again_in_another_type_is_no_repetition()
    {
        using var model = TinyLlama.Create(type: ScalarType.BFloat16);
        Add(model, ["plain"]);
        model.Merge();
        model.Merge(options: new MergeOptions { DataType = ScalarType.Float32 });
        Assert.Equal(ScalarType.Float32, model.DataType);
    }

    [Fact]
    public void Unloading_makes_the_merge_final_and_the_saved_model_computes_the_same()
    {
        using var model = TinyLlama.Create();
        Add(model, ["plain", "wide"]);
        model.SetActive("wide");
        using var beside = ModelRun.Logits(model, TinyLlama.Inputs());

        var report = model.Merge(options: new MergeOptions { Unload = true });

        Assert.Empty(model.Adapters);
        Assert.False(model.IsMerged);
        Assert.Contains(report.Messages, static message => message.Contains("plain", StringComparison.Ordinal));
        using var folder = new TemporaryFolder();
        model.Save(folder.Path);
        using var loaded = PeftModel.Load(folder.Path);
        using var logits = ModelRun.Logits(loaded, TinyLlama.Inputs());
        AssertClose(beside, logits, 2e-5);
    }

    [Fact]
    public void What_a_merge_puts_to_sleep_is_named_and_wakes_up_when_it_is_undone()
    {
        using var model = TinyLlama.Create();
        Add(model, ["plain", "wide"]);
        model.SetActive("plain", "wide");

        var report = model.Merge(["plain"]);

        Assert.Equal(["wide"], report.Deactivated);
        Assert.Equal(["plain"], model.ActiveAdapters);
        model.UndoMerge();
        Assert.Equal(["plain", "wide"], model.ActiveAdapters);
    }

    [Fact]
    public void Choosing_or_disabling_while_merged_restores_first_and_says_so()
    {
        using var model = TinyLlama.Create();
        Add(model, ["plain", "wide"]);
        var before = ModelBits.Of(model.Base);
        model.Merge(["plain"]);
        Assert.NotEmpty(model.SetActive("wide"));
        Assert.Equal(before, ModelBits.Of(model.Base));
        model.Merge(["plain"]);
        Assert.NotEmpty(model.Disable());
        Assert.Equal(before, ModelBits.Of(model.Base));
        Assert.False(model.IsMerged);
    }

    [Fact]
    public void A_trained_bias_of_a_layer_without_one_cannot_be_merged()
    {
        using var model = TinyLlama.Create(bias: false);
        Add(model, ["biased"]);
        Assert.NotEmpty(model["biased"].Report.Messages);
        Assert.Equal("MergeNotPossible", Assert.Throws<PeftException>(() => model.Merge()).ErrorId);
    }

    /// <summary>
    /// In eight bits neither result is exact. A merge may be three times as far from what float32 gives as adapters beside the weights are:
    /// the merged weight is rounded as a whole, a residual of smaller numbers less.
    /// </summary>
    private static void AssertAsExact(PeftModel model, Dictionary<string, Tensor> inputs, Tensor beside, Tensor merged)
    {
        model.Merge(options: new MergeOptions { DataType = ScalarType.Float32 });
        using var exact = ModelRun.Logits(model, inputs);
        model.UndoMerge();
        double Distance(Tensor found) => found.to(ScalarType.Float32).sub(exact).norm().item<float>();
        Assert.True(Distance(merged) <= 3 * Distance(beside), FormattableString.Invariant($"merged {Distance(merged):G3} from float32's, beside {Distance(beside):G3}"));
    }

    private static void Add(PeftModel model, string[] names)
    {
        foreach (var name in names)
        {
            model.AddAdapter(s_configs[name], name, seed: 3).Perturb((ulong)name.Length);
        }
    }

    private static void AssertClose(Tensor expected, Tensor actual, double relative)
    {
        using var scope = NewDisposeScope();
        var right = expected.to(ScalarType.Float64);
        var gap = actual.to(ScalarType.Float64).sub(right).abs().max().item<double>();
        Assert.True(gap <= relative * right.abs().max().item<double>(), FormattableString.Invariant($"largest difference {gap:G3} beside {right.abs().max().item<double>():G3}"));
    }
}
