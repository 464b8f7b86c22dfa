using Peft.Adapters;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Tests.Training;
using Peft.Training;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

public class LoraVariantTests
{
    private static readonly LoraConfig s_activated = new() { Rank = 2, TargetModules = ModuleNames.Of("q_proj", "down_proj"), InvocationTokens = [11, 12] };

    [Fact]
    public void Activated_LoRA_acts_from_the_last_place_of_its_tokens_on_with_and_without_a_cache()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = TinyLlama.Create();
        model.AddAdapter(s_activated, "waits", 1).Perturb(2);
        var ids = tensor(new long[,] { { 3, 11, 12, 4, 11, 12, 5, 6 }, { 3, 4, 5, 6, 7, 8, 11, 9 } });
        var own = Hidden(AdapterSelection.Base);
        var acting = Hidden(model.CurrentSelection);
        var changed = own.sub(acting).abs().amax([2]).gt(1e-6);
        Assert.Equal([0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0], changed.to(ScalarType.Int32).flatten().data<int>().ToArray());

        using var cache = new ModelCache();
        var first = model.Base.Forward(ids.narrow(1, 0, 6), model.NewPass(new ForwardContext { Cache = cache })).Hidden.view(2, 6, -1);
        Assert.True(acting.narrow(1, 0, 6).sub(first).abs().max().item<float>() < 1e-4);
        for (var i = 6; i < 8; i++)
        {
            var step = model.Base.Forward(ids.narrow(1, i, 1), model.NewPass(new ForwardContext { Cache = cache })).Hidden;
            Assert.True(acting.select(1, i).sub(step).abs().max().item<float>() < 1e-4, $"position {i}");
        }

        Assert.Equal("MergeNotPossible", Assert.Throws<PeftException>(() => model.Merge()).ErrorId);

        Tensor Hidden(AdapterSelection selection) => model.Base.Forward(ids, model.NewPass(new ForwardContext(), selection)).Hidden.view(2, 8, -1);
    }

    /// <summary>With one number a group of one input nothing is lost, so that its gradients are LoRA's, dropout and all; and with fewer groups that many numbers are kept, no inputs.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(0.4)]
    public void VeLoRA_keeps_one_number_a_group_of_inputs(double dropout)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = TinyLlama.Create();
        var config = new LoraConfig { Rank = 2, Alpha = 3, Dropout = dropout, TargetModules = ModuleNames.Of("q_proj") };
        model.AddAdapter(config, "plain", 1).Perturb(2);
        var layer = (LoraLayer)model["plain"].Adapter.Layers[0].Adapter;
        var (inputs, outputs) = (layer.Layer.Inputs, layer.Layer.Outputs);
        model.AddAdapter(config with { Velora = new VeloraSettings { Groups = (int)inputs, Start = VeloraSettings.Random } }, "exact", 1).Perturb(2);
        model.AddAdapter(config with { Velora = new VeloraSettings { Groups = 2 } }, "summed", 1).Perturb(2);
        using var generator = new Generator(5);
        var (x, y) = (randn([7, inputs], generator: generator), randn([7, outputs], generator: generator));
        var plain = Gradients("plain", out _);
        var exact = Gradients("exact", out _);
        Assert.All(plain.Zip(exact), static pair => Assert.True(pair.First.sub(pair.Second).abs().max().item<float>() < 1e-5));
        Gradients("summed", out var bytes);
        Assert.Equal(((7 * 2) + (7 * 2) + ((inputs + 1) / 2) + (dropout > 0 ? 7 * inputs : 0)) * sizeof(float), bytes);

        Tensor[] Gradients(string name, out long kept)
        {
            using var tape = new Tape();
            var own = (LoraLayer)model[name].Adapter.Layers[0].Adapter;
            foreach (var parameter in new[] { own.A, own.B })
            {
                parameter.Data.requires_grad_(true);
                parameter.Gradient = zeros_like(parameter.Data).requires_grad_(false);
            }

            // Both ends of a piece are roots here: the gradient of the input is what the piece before it would get.
            var seen = new RootPiece();
            tape.AddRoot(x, needsGradient: true);
            tape.AddRoot(y, needsGradient: true);
            var start = x.clone();
            tape.Record(seen, [x], [start], trains: true);
            using var random = new Generator(9);
            var call = new SlotCall(AdapterSlot.Of(own.Layer.Module, own.Layer.Weight), new ForwardContext { Tape = tape, IsTraining = true, Generator = random }, 1f);
            var made = own.AfterOn(tape, start, y, call);
            kept = tape.KeptBytes;
            tape.Backward(made, made.cos());
            var found = new[] { made, own.A.Gradient!, own.B.Gradient!, seen.Seen! };
            foreach (var parameter in new[] { own.A, own.B })
            {
                parameter.Data.requires_grad_(false);
                parameter.Gradient = null;
            }

            return found;
        }
    }

    private sealed class RootPiece : Piece
    {
        public Tensor? Seen { get; private set; }

        public override void Backward(PieceGradients gradients) => Seen = gradients.Output().clone().MoveToOuterDisposeScope();
    }

    [Fact]
    public void In_a_mixed_batch_activated_LoRA_acts_on_its_rows_as_it_does_alone_with_and_without_a_cache()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = TinyLlama.Create();
        model.AddAdapter(s_activated, "waits", 1).Perturb(2);
        model.AddAdapter(s_activated with { InvocationTokens = [5] }, "other", 1).Perturb(3);
        model.AddAdapter(s_activated with { InvocationTokens = null }, "plain", 1).Perturb(4);
        var ids = tensor(new long[,] { { 3, 11, 12, 4, 5, 12 }, { 3, 11, 12, 4, 5, 12 }, { 3, 11, 12, 4, 5, 12 }, { 3, 11, 12, 4, 5, 12 }, { 11, 12, 3, 3, 5, 4 } });
        string[] names = ["plain", "waits", AdapterSelection.BaseRow, "other", "waits"];
        var expected = cat([.. names.Select((name, row) => Hidden(ids.narrow(0, row, 1), name == AdapterSelection.BaseRow ? AdapterSelection.Base : AdapterSelection.Of(name)))]);
        Assert.True(Hidden(ids, model.SelectRows(names)).sub(expected).abs().max().item<float>() < 1e-4);

        using var cache = new ModelCache();
        var first = model.Base.Forward(ids.narrow(1, 0, 4), model.NewPass(new ForwardContext { Cache = cache }, model.SelectRows(names))).Hidden.view(5, 4, -1);
        Assert.True(expected.narrow(1, 0, 4).sub(first).abs().max().item<float>() < 1e-4);
        for (var i = 4; i < 6; i++)
        {
            var step = model.Base.Forward(ids.narrow(1, i, 1), model.NewPass(new ForwardContext { Cache = cache }, model.SelectRows(names))).Hidden;
            Assert.True(expected.select(1, i).sub(step).abs().max().item<float>() < 1e-4, $"position {i}");
        }

        Tensor Hidden(Tensor rows, AdapterSelection selection) => model.Base.Forward(rows, model.NewPass(new ForwardContext(), selection)).Hidden.view(rows.size(0), 6, -1);
    }

    [Theory]
    [InlineData("embed_tokens", false)]
    [InlineData("lm_head", false)]
    [InlineData("embed_tokens", true)]
    public void Layers_that_share_their_weight_are_trained_to_one_change_of_it_where_that_is_asked_for(string target, bool dora)
    {
        using var folder = new TemporaryFolder();
        using var model = TinyLlama.Create(tied: true);
        var adapter = model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of(target), EnsureWeightTying = true, UseDora = dora }, "tuned", 1);
        var start = Values("lora_embedding_A");
        var (_, gradients) = ModelRun.Backward(model, adapter, TinyLlama.Inputs());
        using (no_grad())
        {
            var expected = gradients[Find("lora_embedding_A").FullKey] + gradients[Find("lora_B.weight").FullKey].t();
            foreach (var parameter in adapter.TrainableParameters)
            {
                parameter.Parameter.Gradient = gradients[parameter.FullKey];
            }

            adapter.Adapter.OnGradients(0);
            AssertNear(expected, gradients[Find("lora_embedding_A").FullKey]);
            Assert.Equal(0, gradients[Find("lora_B.weight").FullKey].abs().max().item<float>());
            foreach (var parameter in adapter.TrainableParameters)
            {
                parameter.Parameter.Gradient = null;
            }
        }

        new Trainer(TrainerTests.Request(model, new TrainingOptions { LearningRate = 1e-2, MaxSteps = 4, BatchSize = 2, Seed = 5 })).Train();
        AssertNear(Values("lora_embedding_A"), Values("lora_B.weight").t());
        AssertNear(Values("lora_embedding_B"), Values("lora_A.weight").t());
        Assert.True(Values("lora_embedding_A").sub(start).abs().max().item<float>() > 1e-3);

        model.SaveAdapter("tuned", folder.Path);
        using var before = ModelRun.Logits(model, TinyLlama.Inputs());
        using var other = TinyLlama.Create(tied: true);
        Assert.Empty(other.LoadAdapter(folder.Path).Report.Missing);
        using var after = ModelRun.Logits(other, TinyLlama.Inputs());
        AssertNear(before, after);

        AdapterParameter Find(string name) => adapter.TrainableParameters.Single(parameter => parameter.FullKey.EndsWith(name, StringComparison.Ordinal));

        Tensor Values(string name) => Find(name).Parameter.Data.clone();

        static void AssertNear(Tensor expected, Tensor found) => Assert.True(expected.sub(found).abs().max().item<float>() < 1e-5, $"{expected.sub(found).abs().max().item<float>()}");
    }

    [Fact]
    public void What_cannot_be_one_change_of_a_shared_weight_is_refused()
    {
        using var model = TinyLlama.Create(tied: true);
        var config = new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("embed_tokens", "lm_head"), EnsureWeightTying = true, RankPattern = new Dictionary<string, int> { ["lm_head"] = 3 } };
        var error = Assert.Throws<PeftException>(() => model.AddAdapter(config, "tuned", 1));
        Assert.Equal("AdapterConfigContradictory", error.ErrorId);
        Assert.Contains("different ranks", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void In_a_packed_row_each_example_waits_for_its_own_tokens()
    {
        using var scope = NewDisposeScope();
        using var ids = tensor(new long[,] { { 11, 12, 3, 4, 11, 12 } });
        var apart = cat([ActivatedLoraLayer.Find([11, 12], ids.narrow(1, 0, 4)), ActivatedLoraLayer.Find([11, 12], ids.narrow(1, 4, 2))], 1);
        using var model = TinyLlama.Create();
        model.AddAdapter(s_activated, "waits", 1);
        var pass = model.NewPass(new ForwardContext { Rows = 1, Length = 6, Packing = [[4, 2]] });
        Assert.True(pass.OnTokens!(ids, pass).Activations["waits"].eq(apart).all().item<bool>());
        Assert.Equal(6, apart.sum().item<long>());
    }

    [Fact]
    public void KaSA_takes_the_smallest_singular_values_out_of_the_base_and_gives_every_bit_back()
    {
        using var model = TinyLlama.Create();
        var before = ModelBits.Of(model.Base);
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj"), Kasa = new KasaSettings() }, "kasa", 1);
        var values = linalg.svd(model.Base.FindParameter("model.layers.0.self_attn.q_proj.weight")!.Data).S;
        Assert.True(values.narrow(0, values.size(0) - 2, 2).max().item<float>() < 1e-5);
        model.RemoveAdapter("kasa");
        Assert.Equal(before, ModelBits.Of(model.Base));
    }

    [Theory]
    [InlineData("down_proj", null)]
    [InlineData(null, "down_proj")]
    public void A_block_diagonal_factor_is_merged_as_it_acts(string? first, string? second)
    {
        using var model = TinyLlama.Create();
        var blocks = new BlockDiagonalSettings { Blocks = 2, First = first is null ? null : [first], Second = second is null ? null : [second] };
        model.AddAdapter(new LoraConfig { Rank = 4, TargetModules = ModuleNames.Of("down_proj"), BlockDiagonal = blocks }, "blocks", 1).Perturb(2);
        using var beside = ModelRun.Logits(model, TinyLlama.Inputs());
        model.Merge(options: new MergeOptions { Safe = true });
        using var merged = ModelRun.Logits(model, TinyLlama.Inputs());
        Assert.True(beside.sub(merged).abs().max().item<float>() < 1e-4);
    }

    [Fact]
    public void Variants_that_exclude_each_other_are_refused_by_name()
    {
        var both = s_activated with { UseDora = true };
        Assert.Contains("use_dora and alora_invocation_tokens", Assert.Throws<PeftException>(both.Validate).Message, StringComparison.Ordinal);
        using var model = TinyLlama.Create();
        Assert.Equal("AdapterConfigContradictory", Assert.Throws<PeftException>(() => model.AddAdapter(s_activated with { TargetModules = ModuleNames.Of("embed_tokens") })).ErrorId);
        Assert.Equal("AdapterConfigContradictory", Assert.Throws<PeftException>(() => model.AddAdapter(s_activated with { InvocationTokens = null, Rank = 16, TargetModules = ModuleNames.Of("q_proj"), Kasa = new KasaSettings() })).ErrorId);
    }
}
