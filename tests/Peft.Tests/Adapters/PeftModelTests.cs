using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Training;
using Peft.Training.Optimizers;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

public class PeftModelTests
{
    private static readonly LoraConfig s_config = new() { Rank = 2, Alpha = 4, TargetModules = ModuleNames.Of("q_proj", "v_proj") };

    [Fact]
    public void The_first_adapter_becomes_active_and_later_ones_wait()
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(s_config, "a");
        model.AddAdapter(s_config, "b");
        Assert.Equal(["a"], model.ActiveAdapters);
        Assert.Equal(["a", "b"], model.Adapters.Select(static adapter => adapter.Name));
        Assert.True(model["a"].IsActive);
        Assert.False(model["b"].IsActive);
    }

    [Fact]
    public void A_freed_model_refuses_every_operation_and_may_be_freed_twice()
    {
        var model = TinyLlama.Create();
        model.Dispose();
        model.Dispose();
        Assert.True(model.IsDisposed);
        Assert.Equal("ModelDisposed", Assert.Throws<PeftException>(() => model.AddAdapter(s_config)).ErrorId);
        Assert.Equal("ModelDisposed", Assert.Throws<PeftException>(() => model["a"]).ErrorId);
    }

    [Fact]
    public void A_stopped_save_leaves_no_model_and_no_part_of_one()
    {
        using var model = TinyLlama.Create();
        using var stop = new CancellationTokenSource();
        var folder = Directory.CreateTempSubdirectory("peft-save");
        try
        {
            Assert.Throws<OperationCanceledException>(() => model.Save(folder.FullName, onProgress: (_, _) => stop.Cancel(), cancellation: stop.Token));
            Assert.Empty(folder.EnumerateFiles());

            List<(long Done, long Total)> seen = [];
            model.Save(folder.FullName, onProgress: (done, total) => seen.Add((done, total)));
            Assert.Equal(seen[^1].Total, seen[^1].Done);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Fact]
    public void A_new_adapter_changes_nothing_until_it_is_trained()
    {
        using var model = TinyLlama.Create();
        var inputs = TinyLlama.Inputs();
        using var before = ModelRun.Logits(model, inputs);
        model.AddAdapter(s_config with { ModulesToSave = ["lm_head"], Bias = BiasTraining.All });
        using var after = ModelRun.Logits(model, inputs);
        Assert.Equal(0, before.sub(after).abs().max().item<float>());
    }

    [Fact]
    public void A_seed_gives_the_same_start_and_another_seed_another()
    {
        using var model = TinyLlama.Create();
        var one = model.AddAdapter(s_config, "one", 5).TrainableParameters[0].Parameter.Data;
        var same = model.AddAdapter(s_config, "same", 5).TrainableParameters[0].Parameter.Data;
        var other = model.AddAdapter(s_config, "other", 6).TrainableParameters[0].Parameter.Data;
        Assert.Equal(0, one.sub(same).abs().max().item<float>());
        Assert.NotEqual(0, one.sub(other).abs().max().item<float>());
    }

    [Theory]
    [InlineData("")]
    [InlineData(" ")]
    [InlineData("a.b")]
    [InlineData("a/b")]
    [InlineData("__base__")]
    [InlineData("Base")]
    public void A_name_that_files_or_batches_could_not_hold_is_refused(string name)
    {
        using var model = TinyLlama.Create();
        Assert.Equal("AdapterNameInvalid", Assert.Throws<PeftException>(() => model.AddAdapter(s_config, name)).ErrorId);
    }

    [Fact]
    public void Names_that_are_taken_or_unknown_are_errors_that_list_what_there_is()
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(s_config, "a");
        Assert.Equal("AdapterExists", Assert.Throws<PeftException>(() => model.AddAdapter(s_config, "a")).ErrorId);
        Action[] unknown = [() => model.SetActive("x"), () => model.RemoveAdapter("x"), () => model.Merge(["x"]), () => model.SaveAdapters("x", ["x"]), () => model.Select("x"), () => model.SelectRows(["x"])];
        Assert.All(unknown, act =>
        {
            var error = Assert.Throws<PeftException>(act);
            Assert.Equal("AdapterNotFound", error.ErrorId);
            Assert.Contains("it has a.", error.Message, StringComparison.Ordinal);
        });
        Assert.Equal("AdapterNamedTwice", Assert.Throws<PeftException>(() => model.SetActive("a", "a")).ErrorId);
    }

    [Fact]
    public void A_failed_addition_leaves_no_trace()
    {
        using var model = TinyLlama.Create();
        var version = model.Version;
        Assert.Throws<PeftException>(() => model.AddAdapter(s_config with { TargetModules = ModuleNames.Of("q_proj", "mlp") }));
        Assert.Throws<PeftException>(() => model.AddAdapter(s_config with { Rank = 0 }));
        Assert.Empty(model.Adapters);
        Assert.Equal(version, model.Version);
        Assert.All(model.Base.NamedParameters(), static named => Assert.Null(named.Parameter.Slot));
    }

    [Fact]
    public void A_replacement_that_is_undone_brings_the_old_adapter_back_as_it_acted()
    {
        using var model = TinyLlama.Create();
        var inputs = TinyLlama.Inputs();
        var old = model.AddAdapter(s_config with { ModulesToSave = ["lm_head"] }, "a").Perturb(1);
        model.AddAdapter(s_config, "b").Perturb(2);
        model.SetActive([new ActiveAdapter("a", 0.5f), new ActiveAdapter("b")]);
        using var before = ModelRun.Logits(model, inputs);
        using (var replacement = model.ReplaceAdapter(s_config, "a"))
        {
            Assert.Same(replacement.Adapter, model["a"]);
            using var replaced = ModelRun.Logits(model, inputs);
            Assert.NotEqual(0, before.sub(replaced).abs().max().item<float>());
            replacement.Undo();
        }

        using var after = ModelRun.Logits(model, inputs);
        Assert.Equal(0, before.sub(after).abs().max().item<float>());
        Assert.Same(old, model.Adapters[0]);

        var kept = model.ReplaceAdapter(s_config, "a");
        kept.Dispose();
        Assert.Same(kept.Adapter, model.Adapters[0]);
        Assert.Null(old.TrainableParameters[0].Parameter.Value);
    }

    [Fact]
    public void Removing_the_last_adapter_leaves_the_base_with_empty_slots()
    {
        using var model = TinyLlama.Create();
        var inputs = TinyLlama.Inputs();
        using var before = ModelRun.Logits(model, inputs);
        model.AddAdapter(s_config, "a", 1).Perturb(1);
        model.AddAdapter(s_config, "b", 1).Perturb(2);
        Assert.NotEmpty(model.RemoveAdapter("a"));
        Assert.Equal(["b"], model.ActiveAdapters);
        model.RemoveAdapter("b");
        using var after = ModelRun.Logits(model, inputs);
        Assert.Equal(0, before.sub(after).abs().max().item<float>());
        Assert.All(model.Base.NamedParameters(), static named => Assert.Null(named.Parameter.Slot));
    }

    [Fact]
    public void Two_copies_of_a_module_cannot_act_together()
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(s_config with { ModulesToSave = ["lm_head"] }, "a");
        model.AddAdapter(s_config with { ModulesToSave = ["lm_head"] }, "b");
        var error = Assert.Throws<PeftException>(() => model.SetActive("a", "b"));
        Assert.Equal("OverlaysConflict", error.ErrorId);
        Assert.Contains("lm_head", error.Message, StringComparison.Ordinal);
        Assert.Equal(["a"], model.ActiveAdapters);
    }

    [Fact]
    public void An_adapter_in_the_place_of_an_active_one_must_not_conflict_with_the_others()
    {
        using var model = TinyLlama.Create();
        using var folder = new TemporaryFolder();
        model.AddAdapter(s_config with { ModulesToSave = ["lm_head"] }, "a");
        model.SaveAdapter("a", folder.Path);
        var old = model.AddAdapter(s_config, "b");
        model.SetActive("a", "b");
        Assert.Equal("OverlaysConflict", Assert.Throws<PeftException>(() => model.LoadAdapter(folder.Path, "b")).ErrorId);
        Assert.Equal("OverlaysConflict", Assert.Throws<PeftException>(() => model.ReplaceAdapter(s_config with { ModulesToSave = ["lm_head"] }, "b")).ErrorId);
        Assert.Same(old, model["b"]);
        Assert.Equal(["a", "b"], model.ActiveAdapters);
        model.SetActive("a");
        model.LoadAdapter(folder.Path, "b");
    }

    [Fact]
    public void What_a_merge_keeps_counts_as_memory()
    {
        using var model = TinyLlama.Create();
        var adapter = model.AddAdapter(s_config);
        var before = model.MemoryBytes;
        model.Merge();
        Assert.Equal(before + adapter.Adapter.Layers.Sum(static layer => layer.Layer.Weight.Count * sizeof(float)), model.MemoryBytes);
        model.UndoMerge();
        Assert.Equal(before, model.MemoryBytes);
    }

    [Theory]
    [InlineData(null, "lm_haed", true)]
    [InlineData(null, "lm_head", false)]
    [InlineData("SEQ_CLS", "classifier", false)]
    public void A_module_to_save_that_is_not_there_is_named(string? task, string name, bool isNamed)
    {
        using var model = TinyLlama.CreateStructure();
        var messages = model.AddAdapter(s_config with { ModulesToSave = [name], TaskType = task }).Report.Messages;
        Assert.Equal(isNamed, messages.Any(message => message.Contains($"modules_to_save names '{name}'", StringComparison.Ordinal)));
    }

    [Fact]
    public void Disabling_keeps_the_active_set_and_every_change_of_what_acts_moves_the_version()
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(s_config, "a", 1).Perturb(1);
        List<int> versions = [model.Version];
        model.Disable();
        Assert.Same(AdapterSelection.Base, model.CurrentSelection);
        versions.Add(model.Version);
        model.Enable();
        Assert.Equal(["a"], model.CurrentSelection.Order.Select(static active => active.Name));
        versions.Add(model.Version);
        model.SetActive();
        versions.Add(model.Version);
        model.SetActive("a");
        versions.Add(model.Version);
        model.Merge();
        versions.Add(model.Version);
        model.UndoMerge();
        versions.Add(model.Version);
        Assert.Equal(versions.Distinct(), versions);
    }

    [Fact]
    public void A_weight_in_the_active_set_scales_the_change()
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(s_config with { Alpha = 4 }, "a", 1).Perturb(1);
        model.AddAdapter(s_config with { Alpha = 1 }, "quarter", 1).Perturb(1);
        model.SetActive([new ActiveAdapter("a", 0.25f)]);
        using var weighted = ModelRun.Logits(model, TinyLlama.Inputs());
        model.SetActive("quarter");
        using var scaled = ModelRun.Logits(model, TinyLlama.Inputs());
        Assert.True(weighted.sub(scaled).abs().max().item<float>() < 1e-4);
    }

    [Fact]
    public void A_mixed_batch_gives_each_row_what_its_adapter_gives_alone()
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(s_config, "a", 1).Perturb(1);
        model.AddAdapter(s_config with { TargetModules = ModuleNames.Of("embed_tokens", "down_proj"), ModulesToSave = ["lm_head", "norm"] }, "b", 1).Perturb(2);
        var inputs = TinyLlama.Inputs(rows: 5);
        string[] rows = ["b", "__base__", "a", "b", "a"];

        using var mixed = ModelRun.Logits(model, inputs, model.SelectRows(rows));

        for (var row = 0; row < rows.Length; row++)
        {
            using var alone = ModelRun.Logits(model, inputs, rows[row] == AdapterSelection.BaseRow ? AdapterSelection.Base : model.Select(rows[row]));
            Assert.True(alone[row].sub(mixed[row]).abs().max().item<float>() < 1e-4, $"row {row}");
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_mixed_batch_trains_each_adapter_as_its_rows_alone_do(bool checkpointing)
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(s_config, "a", 1).Perturb(1);
        model.AddAdapter(s_config with { TargetModules = ModuleNames.Of("embed_tokens", "down_proj"), ModulesToSave = ["lm_head", "norm"] }, "b", 1).Perturb(2);
        string[] rows = ["b", "__base__", "a", "b", "a"];
        var ids = TinyLlama.Inputs(rows: 5)["input_ids"];
        using var trained = OptimizerRegistry.Create(
            model.Adapters.SelectMany(adapter => adapter.TrainableParameters).Select((parameter, i) => new TrainedParameter($"{i}", parameter.Parameter)), new TrainingOptions());
        var gradients = trained.Parameters.Gradients;

        var mixed = Loss(ids, model.SelectRows(rows));
        using var found = gradients.clone();
        gradients.zero_();
        var alone = rows.Select((name, row) => Loss(ids.narrow(0, row, 1), name == AdapterSelection.BaseRow ? AdapterSelection.Base : model.Select(name))).Sum();

        Assert.Equal(alone, mixed, 1e-3);
        Assert.True(found.abs().max().item<float>() > 0.1);
        Assert.True(found.sub(gradients).abs().max().item<float>() < 1e-4 * found.abs().max().item<float>());

        float Loss(Tensor input, AdapterSelection selection)
        {
            using var noGrad = no_grad();
            using var scope = NewDisposeScope();
            using var tape = new Tape();
            var context = new ForwardContext { Selection = selection, Tape = tape, IsTraining = true, Rows = input.size(0), Length = input.size(1), Checkpointing = checkpointing };
            var causal = (CausalModel)model.Base;
            var loss = causal.Loss(causal.Forward(input, context), input, 1, context);
            tape.Backward(loss);
            return loss.item<float>();
        }
    }

    [Fact]
    public void A_mixed_batch_is_refused_where_it_cannot_be()
    {
        using var model = TinyLlama.Create(bias: true);
        model.AddAdapter(s_config, "a", 1);
        model.AddAdapter(s_config with { Bias = BiasTraining.All }, "biases", 1);
        var inputs = TinyLlama.Inputs(rows: 2);
        Assert.Equal("MixedBatchNotPossible", Assert.Throws<PeftException>(() => model.SelectRows(["biases", "a"])).ErrorId);
        Assert.Equal("RowNamesMismatch", Assert.Throws<PeftException>(() => ModelRun.Logits(model, inputs, model.SelectRows(["a"]))).ErrorId);
        model.Merge(["a"]);
        Assert.Equal("ModelIsMerged", Assert.Throws<PeftException>(() => model.SelectRows(["a", "a"])).ErrorId);
    }

    [Fact]
    public void Counts_are_exact_before_weights_are_there()
    {
        using var structure = TinyLlama.CreateStructure();
        using var loaded = TinyLlama.Create();
        structure.AddAdapter(s_config with { ModulesToSave = ["lm_head"] });
        loaded.AddAdapter(s_config with { ModulesToSave = ["lm_head"] });
        Assert.True(structure.IsStructureOnly);
        Assert.Equal(loaded.ParameterCounts, structure.ParameterCounts);
        Assert.Equal((2 * ((2 * 32) + (2 * 24))) + (TinyLlama.Vocabulary * 16), structure.ParameterCounts.Trainable);
    }

    [Fact]
    public void A_second_operation_is_refused_by_name_and_the_first_goes_on()
    {
        using var model = TinyLlama.Create();
        using (model.Acquire("training"))
        {
            var error = OnAnotherThread(() => model.AddAdapter(s_config)) as PeftException;
            Assert.Equal("PeftModelBusy", error?.ErrorId);
            Assert.Contains("training", error!.Message, StringComparison.Ordinal);
            model.AddAdapter(s_config);
        }

        Assert.Null(OnAnotherThread(() => model.SetActive("default")));

        static Exception? OnAnotherThread(Action act)
        {
            Exception? error = null;
            var thread = new Thread(() => error = Record.Exception(act));
            thread.Start();
            thread.Join();
            return error;
        }
    }
}
