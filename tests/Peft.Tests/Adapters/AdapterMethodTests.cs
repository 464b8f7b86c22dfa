using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Methods.Adamss;
using Peft.Adapters.Methods.Frod;
using Peft.Adapters.Model;
using Peft.Files;
using Peft.Tensors;
using Peft.Tests.Golden;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>Methods that PEFT recorded one by one (tests/golden/generate/adapter_methods.py).</summary>
public class AdapterMethodTests
{
    private static readonly string s_folder = Path.Combine(GoldenCases.Repository, "tests", "references", "adapter-methods");

    public static TheoryData<string> Computed() => Cases(static document => document["learning"] is null);

    public static TheoryData<string> Allocated() => Cases(static document => document["learning"] is not null);

    public static TheoryData<string> OfFrod() => Cases(static (_, config) => config is FrodConfig { SparseRate: > 0 });

    public static TheoryData<string> OfAdamss() => Cases(static (_, config) => config is AdamssConfig);

    [Theory]
    [MemberData(nameof(Computed))]
    public void They_compute_and_learn_what_the_peer_does_and_save_what_they_read(string name)
    {
        using var scope = NewDisposeScope();
        using var temporary = new TemporaryFolder();
        using var model = Loaded(name, out var folder, out var document);
        using var file = TensorStore.OpenFile(Path.Combine(folder, "io.safetensors"));
        var inputs = Inputs(file);
        Close(file.Read("logits"), ModelRun.Logits(model, inputs), "logits");
        Assert.Equal(new ParameterCounts((long)document["trainable"]!, (long)document["total"]!), model.ParameterCounts);

        var saved = Path.Combine(temporary.Path, "saved");
        model.SaveAdapter("adapter", saved);
        using var ours = TensorStore.OpenFolder(saved, "adapter_model");
        using var theirs = TensorStore.OpenFolder(Path.Combine(folder, "adapter"), "adapter_model");
        Assert.Equal(theirs.Names.Order(StringComparer.Ordinal), ours.Names.Order(StringComparer.Ordinal));
        Assert.All(theirs.Names, key => Assert.True(theirs.Read(key).eq(ours.Read(key)).all().item<bool>(), key));
        HoldConfig(Path.Combine(folder, "adapter"), saved);

        var (loss, gradients) = ModelRun.Backward(model, model["adapter"], inputs, isTraining: true);
        Close(file.Read("loss"), tensor((float)loss), "loss");
        string[] learnt = [.. file.Names.Where(static key => key.StartsWith("grad.", StringComparison.Ordinal)).Select(static key => key["grad.".Length..])];
        Assert.Equal(learnt.Order(StringComparer.Ordinal), gradients.Where(static entry => entry.Value.numel() > 0).Select(static entry => entry.Key).Order(StringComparer.Ordinal));
        Assert.All(learnt, key => Close(file.Read("grad." + key), gradients[key], key));
    }

    [Theory]
    [MemberData(nameof(Computed))]
    public void Merged_they_compute_the_same_and_the_weights_come_back(string name)
    {
        using var scope = NewDisposeScope();
        using var model = Loaded(name, out var folder, out _);
        using var file = TensorStore.OpenFile(Path.Combine(folder, "io.safetensors"));
        if (!file.Contains("merged_logits"))
        {
            Assert.NotNull(model["adapter"].Adapter.MergeObstacle);
            return;
        }

        var inputs = Inputs(file);
        var bits = ModelBits.Of(model.Base);
        var before = ModelRun.Logits(model, inputs);
        model.Merge();
        Close(file.Read("merged_logits"), ModelRun.Logits(model, inputs), "merged");
        model.UndoMerge();
        Assert.Equal(bits, ModelBits.Of(model.Base));
        Assert.True(before.eq(ModelRun.Logits(model, inputs)).all().item<bool>());
    }

    /// <summary>The sizes of clusters are the file's, so the same outputs are together; the vectors are the file's but for their signs, which the library chooses.</summary>
    [Theory]
    [MemberData(nameof(OfAdamss))]
    public void A_new_one_finds_the_clusters_of_the_peer(string name)
    {
        using var scope = NewDisposeScope();
        using var model = Loaded(name, out var folder, out _);
        var config = model["adapter"].Config;
        var made = model.AddAdapter(config, "new", seed: 3);
        using var theirs = TensorStore.OpenFolder(Path.Combine(folder, "adapter"), "adapter_model");
        Assert.All(made.Adapter.Parameters(), parameter =>
        {
            Assert.Equal(theirs.Entry(parameter.FileKey!).Shape, parameter.Parameter.Shape);
            if (parameter.Role == ParameterRole.Frozen)
            {
                Close(theirs.Read(parameter.FileKey!).abs(), parameter.Parameter.Data.abs(), parameter.FileKey!);
            }
        });
        Assert.Equal(((AdamssConfig)config).Initialisation == "orthogonal", ChangesNothing(model, folder));
    }

    [Theory]
    [MemberData(nameof(OfFrod))]
    public void A_new_basis_is_that_of_the_peer_and_changes_nothing(string name)
    {
        using var scope = NewDisposeScope();
        using var model = Loaded(name, out var folder, out _);
        var made = model.AddAdapter(model["adapter"].Config with { BaseModelName = null }, "new", seed: 3);
        using var theirs = TensorStore.OpenFolder(Path.Combine(folder, "adapter"), "adapter_model");
        foreach (var parameter in made.Adapter.Parameters().Where(static parameter => parameter.IsSaved && parameter.Role != ParameterRole.Trained))
        {
            var (own, expected) = (parameter.Parameter.Data, theirs.Read(parameter.FileKey!));
            if (parameter.Role == ParameterRole.Index)
            {
                Assert.True(own.eq(expected).all().item<bool>(), parameter.FileKey);
            }
            else
            {
                // Where layers have directions that are alike to it, the library chooses among them: what they span together is the same.
                Close(expected.mm(expected.t()), own.mm(own.t()), parameter.FileKey!);
            }
        }

        Assert.True(ChangesNothing(model, folder));
    }

    [Theory]
    [MemberData(nameof(Allocated))]
    public void Clusters_stop_learning_when_the_peers_do(string name)
    {
        using var scope = NewDisposeScope();
        using var model = Loaded(name, out var folder, out var document);
        using var file = TensorStore.OpenFile(Path.Combine(folder, "io.safetensors"));
        var (adapter, inputs) = (model["adapter"], Inputs(file));
        adapter.Adapter.OnTraining(document["learning"]!.AsArray().Count);
        foreach (var (step, learning) in document["learning"]!.AsArray().Index())
        {
            var learnt = adapter.TrainableParameters;
            var gradients = ModelRun.Backward(model, adapter, inputs).Gradients;
            using (no_grad())
            {
                foreach (var parameter in learnt)
                {
                    parameter.Parameter.Gradient = gradients[parameter.FullKey];
                    parameter.Parameter.Data.add_(gradients[parameter.FullKey], alpha: -(double)document["rate"]!);
                    parameter.Parameter.MarkChanged();
                }
            }

            adapter.Adapter.OnStepped(step);
            foreach (var parameter in learnt)
            {
                parameter.Parameter.Gradient = null;
            }

            Assert.Equal(learning!.AsArray().Select(static key => (string)key!).Order(StringComparer.Ordinal), adapter.TrainableParameters.Select(static parameter => parameter.FullKey).Order(StringComparer.Ordinal));
            if (step % 4 == 0)
            {
                // What a checkpoint holds is enough to go on.
                var state = adapter.Adapter.State().ToDictionary(static entry => entry.Key, static entry => entry.Value.clone());
                adapter.Adapter.OnTraining(1);
                adapter.Adapter.LoadState(state);
            }
        }

        Assert.All(adapter.Adapter.Parameters().Where(parameter => file.Contains("end." + parameter.FullKey)), parameter => Close(file.Read("end." + parameter.FullKey), parameter.Parameter.Data, parameter.FullKey));
    }

    private static bool ChangesNothing(PeftModel model, string folder)
    {
        using var file = TensorStore.OpenFile(Path.Combine(folder, "io.safetensors"));
        var inputs = Inputs(file);
        model.SetActive();
        var expected = ModelRun.Logits(model, inputs);
        model.SetActive("new");
        var change = expected.sub(ModelRun.Logits(model, inputs)).abs().max().item<float>();
        return change < 5e-4 * (1 + expected.abs().max().item<float>());
    }

    private static PeftModel Loaded(string name, out string folder, out JsonObject document)
    {
        folder = Path.Combine(s_folder, name);
        document = JsonFile.ReadNode(Path.Combine(folder, "case.json"));
        var model = PeftModel.Load(Path.Combine(s_folder, (string)document["base"]!));
        var report = model.LoadAdapter(Path.Combine(folder, "adapter"), "adapter").Report;
        Assert.Empty(report.Missing);
        Assert.Empty(report.Unexpected);
        return model;
    }

    private static Dictionary<string, Tensor> Inputs(TensorStore file) => new() { ["input_ids"] = file.Read("input_ids"), ["labels"] = file.Read("labels") };

    private static TheoryData<string> Cases(Func<JsonObject, bool> wanted) => Cases((document, _) => wanted(document));

    private static TheoryData<string> Cases(Func<JsonObject, AdapterConfig, bool> wanted) => new(Directory.GetFiles(s_folder, "case.json", SearchOption.AllDirectories)
        .Where(path => wanted(JsonFile.ReadNode(path), AdapterConfig.FromFolder(Path.Combine(Path.GetDirectoryName(path)!, "adapter"))))
        .Select(static path => Path.GetFileName(Path.GetDirectoryName(path)!)).Order(StringComparer.Ordinal));

    /// <summary>Every key of the peer's configuration with its value; targets are a set there.</summary>
    private static void HoldConfig(string theirs, string ours)
    {
        var (expected, found) = (JsonFile.ReadNode(Path.Combine(theirs, AdapterConfig.FileName)), JsonFile.ReadNode(Path.Combine(ours, AdapterConfig.FileName)));
        Assert.Equal(expected.Select(static entry => entry.Key).Order(StringComparer.Ordinal), found.Select(static entry => entry.Key).Order(StringComparer.Ordinal));
        Assert.All(expected.Where(static entry => entry.Key is not ("target_modules" or "peft_version" or "base_model_name_or_path" or "auto_mapping" or "progressbar" or "init_weights")), entry =>
            Assert.True(JsonNode.DeepEquals(entry.Value, found[entry.Key]), $"{entry.Key}: {entry.Value} there, {found[entry.Key]} here"));
    }

    private static void Close(Tensor expected, Tensor found, string what) =>
        Assert.True(expected.sub(found).abs().max().item<float>() < 2e-5 * (1 + expected.abs().max().item<float>()), what);
}
