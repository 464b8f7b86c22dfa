using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Merging;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Tensors;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>Adapters that PEFT saved, held to what PEFT computed with them.</summary>
public class AdapterGoldenTests
{
    [GoldenTheory]
    [GoldenData(AdapterGolden.Domain, "cases/")]
    public void A_saved_adapter_computes_what_the_peer_computes(string path) => GoldenCases.Run(AdapterGolden.Domain, path, folder =>
    {
        using var run = new CaseRun(folder, AdapterGolden.Domain);
        run.HoldAll();
    });

    [GoldenTheory]
    [GoldenData("families", "moe_adapters/")]
    public void An_adapter_of_a_mixture_computes_what_the_peer_computes(string path) => GoldenCases.Run("families", path, folder =>
    {
        using var run = new CaseRun(folder, "families");
        run.HoldAll();
    });

    private sealed class CaseRun : IDisposable
    {
        private readonly string folder;
        private readonly JsonObject record;
        private readonly JsonNode tolerance;
        private readonly Dictionary<string, Tensor> io;
        private readonly PeftModel model;
        private readonly PeftAdapter adapter;
        private readonly string saved = Directory.CreateTempSubdirectory("peft-adapter-").FullName;

        public CaseRun(string folder, string domain)
        {
            this.folder = folder;
            record = AdapterGolden.Case(folder);
            tolerance = record["tolerance"]!;

            // A configuration that isn't supported is told from the folder alone, a family from the base.
            AdapterConfig.FromFolder(Path.Combine(folder, "adapter")).Validate();
            model = AdapterGolden.Base((string)record["base"]!, domain);
            adapter = model.LoadAdapter(Path.Combine(folder, "adapter"));
            io = AdapterGolden.Tensors(Path.Combine(folder, "io.safetensors"));
        }

        public void HoldAll()
        {
            HoldOutputs();
            HoldGradients();
            HoldDisabled();
            HoldCounts();
            HoldStart();
            HoldFiles();
            HoldReload();
            HoldMerge();
        }

        private void HoldOutputs()
        {
            Assert.Empty(adapter.Report.Missing);
            Assert.Empty(adapter.Report.Unexpected);
            Hold("base_logits", ModelRun.Logits(model, io, AdapterSelection.Base));
            Hold("adapter_logits", ModelRun.Logits(model, io));
        }

        private void HoldGradients()
        {
            if (!io.TryGetValue("loss", out var loss))
            {
                return;
            }

            var (value, gradients) = ModelRun.Backward(model, adapter, io);
            Hold("loss", tensor(new[] { (float)value }));
            var expected = io.Keys.Where(static key => key.StartsWith("grad.", StringComparison.Ordinal)).Select(static key => key["grad.".Length..]).ToArray();
            foreach (var key in expected.Where(key => !(IsComputed && key.StartsWith("prompt_encoder.", StringComparison.Ordinal))))
            {
                Assert.True(gradients.ContainsKey(key), $"no gradient for {key}");
                HoldGradient(key, gradients[key]);
            }

            AdapterGolden.Free(gradients);
        }

        private void HoldDisabled()
        {
            model.Disable();

            // The peer trains biases of the base in place, so that they stay when it disables the adapter; here they are the adapter's own copies.
            var expected = io.TryGetValue("disabled_logits", out var disabled) && (adapter.Config as LayerwiseConfig)?.Bias is null or BiasTraining.None ? disabled : io["base_logits"];
            using var logits = ModelRun.Logits(model, io);
            AdapterGolden.AssertClose(expected, logits, tolerance, "disabled logits");
            model.Enable();
        }

        private void HoldCounts()
        {
            using var fresh = IsComputed ? AdapterGolden.Base((string)record["base"]!) : null;
            fresh?.AddAdapter(AdapterConfig.FromFolder(Path.Combine(folder, "adapter")));
            Assert.Equal((long)record["trainable_parameters"]!, (fresh ?? model).ParameterCounts.Trainable);
            Assert.Equal((long)record["all_parameters"]!, (fresh ?? model).ParameterCounts.All);
            Assert.Equal(AdapterGolden.Strings(record["adapted_modules"]), adapter.AdaptedModules.Order(StringComparer.Ordinal));
        }

        /// <summary>A start that is determined: from a text, from another adapter's file.</summary>
        private void HoldStart()
        {
            if (!io.TryGetValue("initial_embedding", out var expected))
            {
                return;
            }

            var document = AdapterGolden.Read(Path.Combine(folder, "adapter", AdapterConfig.FileName));
            document["tokenizer_name_or_path"] = AdapterGolden.PathOf((string)document["tokenizer_name_or_path"]!);
            using var fresh = AdapterGolden.Base((string)record["base"]!);
            var start = fresh.AddAdapter(AdapterConfig.FromJson(document)).TrainableParameters[0].Parameter.Data;
            AdapterGolden.AssertClose(expected, start, tolerance, "start");
        }

        private void HoldFiles()
        {
            var original = Path.Combine(folder, "adapter");
            using var theirs = TensorStore.OpenFolder(original, "adapter_model");
            model.SaveAdapter(adapter.Name, saved, KeepsEmbeddings(theirs));
            using var ours = TensorStore.OpenFolder(saved, "adapter_model");
            Assert.Equal(theirs.Names.Order(StringComparer.Ordinal), ours.Names.Order(StringComparer.Ordinal));
            foreach (var name in theirs.Names)
            {
                using var left = theirs.Read(name);
                using var right = ours.Read(name);
                Assert.True(left.dtype == right.dtype && AdapterGolden.Difference(left, right) == 0, $"{name} changed in saving");
            }

            Assert.Equal(
                AdapterGolden.Canonical(AdapterGolden.Read(Path.Combine(original, AdapterConfig.FileName))),
                AdapterGolden.Canonical(AdapterGolden.Read(Path.Combine(saved, AdapterConfig.FileName))));
        }

        private void HoldReload()
        {
            model.LoadAdapter(saved, "again");
            model.SetActive("again");
            Hold("adapter_logits", ModelRun.Logits(model, io));
            model.SetActive(adapter.Name);
            model.RemoveAdapter("again");
        }

        private void HoldMerge()
        {
            if (record["merges"] is not { } merges)
            {
                return;
            }

            if (!(bool)merges)
            {
                Assert.Throws<PeftException>(() => model.Merge());
                return;
            }

            var before = Bits();
            model.Merge(options: new MergeOptions { Safe = true });
            using (var merged = ModelRun.Logits(model, io))
            {
                AdapterGolden.AssertClose(io["adapter_logits"], merged, tolerance, "merged against adapter logits");
            }

            // Where the peer's own merge changes the output (tied weights), there is nothing to hold merged weights to.
            if ((bool)record["merged_equals_adapter"]!)
            {
                Hold("merged_logits", ModelRun.Logits(model, io));
                foreach (var key in io.Keys.Where(static key => key.StartsWith("merged.", StringComparison.Ordinal)))
                {
                    Hold(key, model.Base.FindParameter(key["merged.".Length..])!.Data.alias());
                }
            }

            model.UndoMerge();
            Assert.Equal(before, Bits());
        }

        public void Dispose()
        {
            AdapterGolden.Free(io);
            model.Dispose();
            Directory.Delete(saved, recursive: true);
        }

        /// <summary>Whether the file holds what a trained network computed, and not the network: its gradients are held in training, where the network is known.</summary>
        private bool IsComputed => adapter.Adapter.Parameters().Any(static parameter => parameter is { FullKey: "prompt_embeddings", Role: ParameterRole.Frozen });

        private bool? KeepsEmbeddings(TensorStore theirs) =>
            theirs.Names.Any(static name => name.EndsWith("base_layer.weight", StringComparison.Ordinal)) ? null : false;

        private Dictionary<string, string> Bits() => ModelBits.Of(model.Base);

        private void HoldGradient(string key, Tensor gradient) => AdapterGolden.AssertClose(io["grad." + key], gradient, tolerance, "gradient of " + key);

        private void Hold(string key, Tensor actual)
        {
            using (actual)
            {
                AdapterGolden.AssertClose(io[key], actual, tolerance, key);
            }
        }
    }
}
