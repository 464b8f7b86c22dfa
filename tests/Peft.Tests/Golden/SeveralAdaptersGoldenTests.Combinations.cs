using System.Text.Json.Nodes;
using Peft.Adapters.Combination;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <content>Steps that make one adapter of several.</content>
public partial class SeveralAdaptersGoldenTests
{
    private sealed partial class Script
    {
        private void Combine(JsonObject step)
        {
            var name = (string)step["step"]!;
            var names = AdapterGolden.Strings(step["adapters"]);
            Open([.. names.Where(part => Directory.Exists(AdapterPath(part)))]);
            if (step["error"] is not null)
            {
                Assert.ThrowsAny<PeftException>(() => Combine(step, names));
                Assert.DoesNotContain(_model!.Adapters, static adapter => adapter.Name == "new");
                _checks++;
                return;
            }

            // The quantile is over singular vectors with their signs, which are those of the linear algebra library: unit tests hold the cut.
            Skip.If(step["options"]?["svd_clamp"] is not null, "what svd_clamp cuts depends on signs of singular vectors, which no library shares with another");
            var combined = Combine(step, names);
            _model!.SetActive("new");
            Hold(name, "logits", () => ModelRun.Logits(_model, _inputs));
            if (step["new_config"] is JsonObject wanted)
            {
                var config = (LoraConfig)combined.Config;
                Assert.Equal(AdapterGolden.Strings(wanted["target_modules"]), config.TargetModules!.Names!.Order(StringComparer.Ordinal));
                Assert.Equal(((int)wanted["r"]!, (double)wanted["lora_alpha"]!, (bool)wanted["use_rslora"]!), (config.Rank, config.Alpha, config.UseRslora));
                Assert.Empty(config.RankPattern);
                Assert.Empty(config.AlphaPattern);
            }

            foreach (var (layer, own) in combined.Adapter.Layers)
            {
                Hold(name, $"delta.{layer.Path}", () => Change(layer, own.LowRank(1)!));
                if (layer.Path.Contains("layers.0.", StringComparison.Ordinal) && layer.Path.EndsWith("q_proj", StringComparison.Ordinal))
                {
                    Assert.Equal((double)step["scaling"]!, own.LowRank(1)!.Scale, 1e-9);
                    Hold(name, "q_proj.lora_A", () => own.LowRank(1)!.A.Data.alias());
                    Hold(name, "q_proj.lora_B", () => own.LowRank(1)!.B.Data.alias());
                }
            }
        }

        /// <summary>Combines with the masks that the peer drew, where it drew any.</summary>
        private PeftAdapter Combine(JsonObject step, string[] names)
        {
            var options = step["options"] as JsonObject ?? [];
            var masks = results.Where(entry => entry.Key.StartsWith($"{step["step"]}.mask.", StringComparison.Ordinal)).OrderBy(static entry => entry.Key, StringComparer.Ordinal).ToArray();
            var drawn = 0;
            var combined = _model!.CombineAdapters(names, [.. ((JsonArray)step["weights"]!).Select(static weight => (double)weight!)], "new", new CombinationOptions
            {
                Type = CombinationTypes.Parse((string?)options["combination_type"] ?? "svd"),
                Rank = (int?)options["svd_rank"],
                Clamp = (double?)options["svd_clamp"],
                Density = (double?)options["density"],
                MajoritySign = (string?)options["majority_sign_method"] == "frequency" ? MajoritySign.Frequency : MajoritySign.Total,
                Mask = masks.Length == 0 ? null : _ => masks[drawn++].Value,
            });
            Assert.Equal(masks.Length, drawn);
            _held.UnionWith(masks.Select(static entry => entry.Key));
            return combined;
        }

        private static Tensor Change(IAdaptable layer, LowRank factors)
        {
            using var change = factors.B.Data.matmul(factors.A.Data).mul_(factors.Scale);
            using var laidOut = layer.FromMatrix(change);
            return laidOut.contiguous();
        }
    }
}
