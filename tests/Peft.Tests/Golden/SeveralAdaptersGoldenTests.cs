using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Peft.Adapters;
using Peft.Adapters.Merging;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>
/// Several adapters on one model, step by step as the case's <c>how</c> says. Each step is a test; the steps before it bring the model into the state it starts from.
/// </summary>
[Trait("Category", "Golden")]
[GoldenClaim(AdapterGolden.Domain, "multi/")]
public partial class SeveralAdaptersGoldenTests
{
    public static IEnumerable<object[]> Steps() => GoldenCases.Enumerate(AdapterGolden.Domain, "multi/")
        .SelectMany(static path => StepsOf(path).Select((step, index) => new object[] { path, index, (string)step!["step"]! }))
        .DefaultIfEmpty(["", -1, ""]);

    [SkippableTheory]
    [MemberData(nameof(Steps))]
    public void A_step_gives_what_the_peer_gives(string path, int index, string name)
    {
        Skip.If(index < 0, $"no such case in this set{name}");
        GoldenCases.Run(AdapterGolden.Domain, path, folder =>
        {
            using var script = new Script(AdapterGolden.Case(folder), AdapterGolden.Tensors(Path.Combine(folder, "results.safetensors")));
            script.Run(index);
        });
    }

    private static JsonArray StepsOf(string path) => (JsonArray)AdapterGolden.Case(AdapterGolden.PathOf(path))["steps"]!;

    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(1);

    private sealed partial class Script(JsonObject record, Dictionary<string, Tensor> results) : IDisposable
    {
        private readonly JsonArray _steps = (JsonArray)record["steps"]!;
        private readonly Dictionary<string, Tensor> _inputs = results
            .Where(static entry => entry.Key.StartsWith("input.", StringComparison.Ordinal))
            .ToDictionary(static entry => entry.Key["input.".Length..], static entry => entry.Value);

        private readonly List<IDisposable> _opened = [];
        private readonly HashSet<string> _held = [];
        private int _checks;
        private PeftModel? _model;

        private string Layer => _steps.Select(static step => Find((string)step!["how"]!, @"weight is ([\w.]+)")).First(static name => name is not null)!;

        public void Run(int index)
        {
            if (_steps[index]!["loaded"] is null && _steps[index]!["adapters"] is null && _steps[index]!["first"] is null)
            {
                // The state a step starts from is what the steps before it left.
                for (var before = 0; before < index; before++)
                {
                    Try((JsonObject)_steps[before]!);
                }
            }

            _held.Clear();
            _checks = 0;
            var step = (JsonObject)_steps[index]!;
            Step(step, hold: true);
            Assert.Equal(results.Keys.Where(key => key.StartsWith($"{step["step"]}.", StringComparison.Ordinal)).Order(StringComparer.Ordinal), _held.Order(StringComparer.Ordinal));
            Assert.True(_checks > 0, "The step was held to nothing.");
        }

        public void Dispose()
        {
            _opened.ForEach(static one => one.Dispose());
            AdapterGolden.Free(results);
        }

        private void Try(JsonObject step)
        {
            try
            {
                Step(step, hold: false);
            }
            catch (NotSupportedByPeftException)
            {
                // An earlier step with a method that isn't there yet says nothing about this one.
                _model = null;
            }
        }

        private void Step(JsonObject step, bool hold)
        {
            var how = (string)step["how"]!;
            if (_model is null)
            {
                Open();
            }

            if (step["adapter_names"] is not null)
            {
                MixedBatch(step);
            }
            else if (step["first"] is not null)
            {
                Replace(step);
            }
            else if (step["error"] is not null && (how.StartsWith("while ", StringComparison.Ordinal) || how.StartsWith("in training", StringComparison.Ordinal)))
            {
                RefuseMixedBatch(how);
            }
            else if (how.StartsWith("after prepare_model", StringComparison.Ordinal))
            {
                Open((string)_steps[_steps.IndexOf(step) + 1]!["first"]!);
                Hold((string)step["step"]!, "logits", () => ModelRun.Logits(_model!, _inputs));
            }
            else if (step["adapters"] is not null || how.Contains("active, then merge", StringComparison.Ordinal))
            {
                Together(step, how);
            }
            else if (how.StartsWith("save_pretrained", StringComparison.Ordinal))
            {
                Save(step, how);
            }
            else
            {
                Act(step, how, hold);
            }
        }

        private void Act(JsonObject step, string how, bool hold)
        {
            var name = (string)step["step"]!;
            var same = how.EndsWith("once more", StringComparison.Ordinal) ? ModelBits.Of(_model!.Base) : null;
            var before = how.Contains("safe_merge=True", StringComparison.Ordinal) ? null : Change(step, how, name);
            if (how.Contains("safe_merge=True", StringComparison.Ordinal))
            {
                SafeMerge(how);
            }

            if (!hold)
            {
                before?.Invoke();
                return;
            }

            if (same is not null)
            {
                Assert.Equal(same, ModelBits.Of(_model!.Base));
                _checks++;
            }

            Hold(name, "logits", () => ModelRun.Logits(_model!, _inputs));
            HoldWeight(name);
            if (step["active"] is JsonArray active && !(step["remaining"] is JsonArray { Count: 0 }))
            {
                Assert.Equal(AdapterGolden.Strings(active), _model!.ActiveAdapters);
            }

            if (step["remaining"] is JsonArray remaining)
            {
                _checks++;
                Assert.Equal(AdapterGolden.Strings(remaining), _model!.Adapters.Select(static adapter => adapter.Name).Order(StringComparer.Ordinal));
            }

            if (step["forward_error"] is not null)
            {
                // The peer can't run without any adapter; here the base speaks.
                using var logits = ModelRun.Logits(_model!, _inputs);
                AdapterGolden.AssertClose(results["base.logits"], logits, record["tolerance"]!, "base");
            }

            before?.Invoke();
        }

        /// <summary>Does what a step says; returns what ends it (leaving a context), if anything.</summary>
        private Action? Change(JsonObject step, string how, string name)
        {
            var names = Names(how);
            if (how.StartsWith("no adapter", StringComparison.Ordinal))
            {
                Open();
            }
            else if (how.StartsWith("from_pretrained", StringComparison.Ordinal))
            {
                Open([.. Regex.Matches(how[..how.IndexOf(':', StringComparison.Ordinal)], @"\b(?!from_pretrained|load_adapter|and\b)\w+", RegexOptions.None, s_patience).Select(static match => match.Value)]);
            }
            else if (how.StartsWith("two ", StringComparison.Ordinal))
            {
                Open(name);
            }
            else if (how.Contains("set_adapter", StringComparison.Ordinal))
            {
                SetActive(names, step["error"] is not null);
            }
            else if (how.Contains("delete_adapter", StringComparison.Ordinal))
            {
                if (Find(how, @"while (\w+) is active") is { } other && other != "it")
                {
                    _model!.SetActive(other);
                }

                _model!.RemoveAdapter(names[0]);
            }
            else if (how.Contains("rescale_adapter_scale", StringComparison.Ordinal))
            {
                var set = _model!.ActiveSet;
                var factor = float.Parse(Find(how, @"\(([\d.]+)\)")!, System.Globalization.CultureInfo.InvariantCulture);
                _model.SetActive(set.Select(entry => entry with { Weight = factor }));
                return () => _model.SetActive(set);
            }
            else if (how.StartsWith("inside disable_adapter", StringComparison.Ordinal))
            {
                _model!.Disable();
                return () => _model.Enable();
            }
            else if (how.StartsWith("the same without", StringComparison.Ordinal))
            {
                UnsafeMerge(step, (string)_steps[_steps.IndexOf(step) - 1]!["how"]!);
            }
            else if (how.Contains("merge", StringComparison.Ordinal) || how.StartsWith("unload", StringComparison.Ordinal))
            {
                return Merge(how, names);
            }

            return null;
        }

        private Action? Merge(string how, string[] names)
        {
            if (how.StartsWith("unmerge_adapter", StringComparison.Ordinal))
            {
                _model!.UndoMerge();
            }
            else if (how.StartsWith("unload", StringComparison.Ordinal))
            {
                Open("unloaded");
                _model!.RemoveAdapter("unloaded");
            }
            else if (how.StartsWith("merge_and_unload", StringComparison.Ordinal))
            {
                Open([.. names.Order(StringComparer.Ordinal)]);
                _model!.Merge(names, new MergeOptions { Unload = true });
            }
            else if (how.Contains("then inside disable_adapter", StringComparison.Ordinal))
            {
                Ensure(names);
                _model!.Merge(names);
                _model.Disable();
                return () => _model.Enable();
            }
            else if (names.Length > 0)
            {
                Ensure(names);
                if (Find(how, @"^(\w+) active,") is { } active)
                {
                    _model!.UndoMerge();
                    _model.SetActive(active);
                }

                _model!.Merge(names);
            }

            return null;
        }

        private void SafeMerge(string how)
        {
            var name = OpenBroken(how);
            var before = ModelBits.Of(_model!.Base);
            var error = Assert.Throws<PeftException>(() => _model.Merge([name], new MergeOptions { Safe = true }));
            Assert.Equal("MergeNotFinite", error.ErrorId);
            Assert.Equal(before, ModelBits.Of(_model.Base));
            Assert.False(_model.IsMerged);
            _checks++;
        }

        private void UnsafeMerge(JsonObject step, string how)
        {
            _model!.Dispose();
            var name = OpenBroken(how);
            _model.Merge([name]);
            var layer = _model[name].Adapter.Layers[0].Layer.Weight;
            using var finite = layer.Data.isfinite().all();
            Assert.Equal((bool)step["weight_is_finite"]!, finite.item<bool>());
            _checks++;
        }

        /// <summary>A model with one adapter that has a value that is not finite.</summary>
        private string OpenBroken(string how)
        {
            var name = Names(how)[0];
            Open(name);
            var factor = _model![name].Adapter.Parameters()[0].Parameter;
            factor.Data[0, 0].fill_(how.Contains("nan", StringComparison.Ordinal) ? float.NaN : float.PositiveInfinity);
            return name;
        }

        private void RefuseMixedBatch(string how)
        {
            const string name = "one";
            Open(name);
            var rows = Enumerable.Repeat(name, (int)_inputs["input_ids"].shape[0]).ToArray();
            if (how.StartsWith("while ", StringComparison.Ordinal))
            {
                _model!.Merge([name]);
                Assert.Equal("ModelIsMerged", Assert.Throws<PeftException>(() => _model.SelectRows(rows)).ErrorId);
            }
            else
            {
                var context = new ForwardContext { Selection = _model!.SelectRows(rows), IsTraining = true };
                Assert.Equal("MixedBatchInTraining", Assert.Throws<PeftException>(() => _model.Base.Forward(_inputs["input_ids"], context)).ErrorId);
            }

            _checks++;
        }

        private void MixedBatch(JsonObject step)
        {
            Open(AdapterGolden.Strings(step["loaded"]));
            var names = AdapterGolden.Strings(step["adapter_names"]);
            if (((string)step["how"]!).Contains("without mixed batches", StringComparison.Ordinal))
            {
                // The peer ignores the names and applies the adapter to every row; here that is refused.
                Assert.Equal("MixedBatchNotPossible", Assert.Throws<PeftException>(() => _model!.SelectRows(names)).ErrorId);
                _held.Add($"{step["step"]}.logits");
                _checks++;
            }
            else if (step["error"] is null)
            {
                Hold((string)step["step"]!, "logits", () => ModelRun.Logits(_model!, _inputs, _model!.SelectRows(names)));
            }
            else
            {
                Assert.ThrowsAny<PeftException>(() => ModelRun.Logits(_model!, _inputs, _model!.SelectRows(names)));
                _checks++;
            }
        }

        /// <summary>Other weights under a loaded adapter's name: loading over it, which also takes what the peer's swap in place can't.</summary>
        private void Replace(JsonObject step)
        {
            var first = (string)step["first"]!;
            Open(first);
            _model!.LoadAdapter(AdapterPath((string)step["second"]!), first);
            Hold((string)step["step"]!, "logits", () => ModelRun.Logits(_model, _inputs));
            if (step["error"] is not null)
            {
                using var replaced = ModelRun.Logits(_model, _inputs);
                Open();
                _model.LoadAdapter(AdapterPath((string)step["second"]!), first);
                using var alone = ModelRun.Logits(_model, _inputs);
                AdapterGolden.AssertClose(alone, replaced, record["tolerance"]!, "replaced against alone");
                _checks++;
            }
        }

        private void Together(JsonObject step, string how)
        {
            if (how.Contains("add_weighted_adapter", StringComparison.Ordinal))
            {
                Combine(step);
                return;
            }

            var name = (string)step["step"]!;
            var names = step["adapters"] is not null ? AdapterGolden.Strings(step["adapters"])
                : [.. Directory.EnumerateDirectories(AdapterPath("")).Select(static folder => Path.GetFileName(folder))
                    .Where(other => $"_{name}_".Contains($"_{other}_", StringComparison.Ordinal)).Order(StringComparer.Ordinal)];
            Open(names);
            _model!.SetActive(names);
            Hold(name, "logits", () => ModelRun.Logits(_model, _inputs));
            using var beside = ModelRun.Logits(_model, _inputs);
            if (step["error"] is not null && names.Any(other => _model[other].Adapter.MergeObstacle is not null))
            {
                // What the peer refuses to mix and what has no weight to go into, such as a prompt, acts but can't be merged.
                Assert.Equal("MergeNotPossible", Assert.Throws<PeftException>(() => _model.Merge()).ErrorId);
                _checks++;
                return;
            }

            _model.Merge();
            Hold(name, "merged_logits", () => ModelRun.Logits(_model, _inputs));
            HoldWeight(name);
            if (step["error"] is not null)
            {
                // What the peer refuses to mix acts here like anything else.
                using var merged = ModelRun.Logits(_model, _inputs);
                AdapterGolden.AssertClose(beside, merged, record["tolerance"]!, "merged against beside");
                _checks++;
            }
        }

        private void Save(JsonObject step, string how)
        {
            var names = Find(how, @"with adapters (\w+ and \w+)")!.Split(" and ");
            Open(names);
            foreach (var key in new[] { "both", "selected", "files" }.Where(key => step[key] is not null))
            {
                var folder = Directory.CreateTempSubdirectory("peft-adapters-").FullName;
                _model!.SaveAdapters(folder, key == "selected" ? Names(how) : null);
                var found = Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories).Select(file => Path.GetRelativePath(folder, file).Replace('\\', '/'));
                Assert.Equal(AdapterGolden.Strings(step[key]), found.Order(StringComparer.Ordinal));
                _checks++;
                Directory.Delete(folder, recursive: true);
            }
        }

        private void SetActive(string[] names, bool refused)
        {
            Ensure(names);
            if (refused)
            {
                Assert.Throws<PeftException>(() => _model!.SetActive(names));
                _checks++;
            }
            else
            {
                _model!.SetActive(names);
            }
        }

        private void Ensure(string[] names)
        {
            foreach (var missing in names.Where(name => !_model!.Adapters.Any(adapter => adapter.Name == name)))
            {
                _model!.LoadAdapter(AdapterPath(missing), missing);
            }
        }

        private void Open(params string[] names)
        {
            _model = AdapterGolden.Base((string)record["base"]!);
            _opened.Add(_model);
            foreach (var name in names)
            {
                _model.LoadAdapter(Directory.Exists(AdapterPath(name)) ? AdapterPath(name) : AnyAdapter(), name);
            }
        }

        private string AdapterPath(string name) => Path.Combine(AdapterGolden.PathOf((string?)record["adapters"] ?? "multi/adapters"), name);

        private string AnyAdapter() => Directory.EnumerateDirectories(AdapterPath("")).Order(StringComparer.Ordinal)
            .First(static folder => (string?)AdapterGolden.Read(Path.Combine(folder, AdapterConfig.FileName))["peft_type"] == "LORA");

        private void Hold(string step, string key, Func<Tensor> actual)
        {
            if (results.TryGetValue($"{step}.{key}", out var expected))
            {
                using var found = actual();
                var tolerance = _steps.First(one => (string?)one!["step"] == step)!["tolerance"] ?? record["tolerance"]!;
                AdapterGolden.AssertClose(expected, found, tolerance, $"{step}.{key}");
                _held.Add($"{step}.{key}");
                _checks++;
            }
        }

        private void HoldWeight(string step) => Hold(step, "weight", () => _model!.Base.FindParameter(Layer + ".weight")!.Data.alias());

        private static string[] Names(string how) => [.. Regex.Matches(how, @"(?<=')\w+(?=')", RegexOptions.None, s_patience).Select(static match => match.Value)];

        private static string? Find(string text, string pattern) => Regex.Match(text, pattern, RegexOptions.None, s_patience) is { Success: true } match ? match.Groups[1].Value : null;
    }
}
