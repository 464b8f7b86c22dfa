using System.Text.RegularExpressions;
using Peft.Adapters.Files;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>
/// LoRA's factors of single experts, as files have them from before the weights of all experts were one, read as factors of that weight: where
/// two layers are joined in it, their ranks stand one behind the other and the second factor is block-diagonal. Whatever a file holds is
/// read: one of two joined layers, some experts, ranks and strengths of their own.
/// </summary>
internal static partial class ExpertFactors
{
    /// <summary>The configuration and the tensors of a file, as they are where nothing stands for single experts.</summary>
    public static (LoraConfig Config, TensorStore Tensors) Convert(LoraConfig config, TensorStore file, PretrainedModel model)
    {
        if (model.Config.KnownFamily is null)
        {
            return (config, file);
        }

        Dictionary<string, Stack> stacks = new(StringComparer.Ordinal);
        HashSet<string> used = [];
        foreach (var name in file.Names)
        {
            if (Factor().Match(name) is not { Success: true } match || model.Keys.ToTree(match.Groups["path"].Value) is not { Expert: { } expert } key)
            {
                continue;
            }

            if (!stacks.TryGetValue(key.Path, out var stack))
            {
                stack = model.FindParameter(key.Path) is { } parameter && Holder(key.Path, model)?.AdaptableOf(parameter) is { Experts: > 1 } layer ? new Stack(key.Path, layer, key.Parts, config, file) : null;
                if (stack is null)
                {
                    continue;
                }

                stacks.Add(key.Path, stack);
            }

            if (stack.Add(name, expert, key.Part, match.Groups["factor"].Value == "A", match.Groups["path"].Value))
            {
                used.Add(name);
            }
        }

        return stacks.Count == 0 ? (config, file) : (Converted(config, [.. stacks.Values], model), new FormedTensors(file, used, Formed([.. stacks.Values])));
    }

    [GeneratedRegex(@"\A(?:base_model\.model\.)?(?<path>.+)\.lora_(?<factor>[AB])(?:\.default)?\.weight\z", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Factor();

    private static Module? Holder(string path, PretrainedModel model) => model.Find(path[..path.LastIndexOf('.')]);

    private static Dictionary<string, FormedTensor> Formed(Stack[] stacks)
    {
        Dictionary<string, FormedTensor> formed = new(StringComparer.Ordinal);
        foreach (var siblings in stacks.GroupBy(static stack => stack.Layer.Module))
        {
            // Of a module's parameters the last one has the outer keys.
            var key = AdapterFile.Prefix + siblings.Key.Path;
            foreach (var stack in siblings.OrderByDescending(stack => siblings.Key.Parameters.ToList().IndexOf(stack.Layer.Weight)))
            {
                formed.Add($"{key}.lora_A.weight", new FormedTensor([stack.Layer.Experts * stack.Rank, stack.Layer.Inputs], stack.FormA));
                formed.Add($"{key}.lora_B.weight", new FormedTensor([stack.Layer.Outputs, stack.Rank * stack.Layer.Experts], stack.FormB));
                key += ".base_layer";
            }
        }

        return formed;
    }

    private static LoraConfig Converted(LoraConfig config, Stack[] stacks, PretrainedModel model)
    {
        config = config with { TargetModules = Remaining(config.TargetModules, model) };
        if (config.TargetModules?.Names is { } names && names.Where(name => ExpertTargets.IsRouter(name, model)).ToArray() is { Length: > 0 } routers)
        {
            config = config with
            {
                TargetModules = ModuleNames.Of(names.Except(routers)),
                TargetParameters = [.. config.TargetParameters ?? [], .. routers.Select(static router => $"{router}.weight")],
            };
        }

        foreach (var alike in stacks.GroupBy(static stack => stack.Layer.Weight.Name))
        {
            // A name means all parameters of that name; where the file has factors for some, or unlike ones, each is named whole.
            var all = model.NamedParameters().Where(named => named.Parameter.Name == alike.Key && named.Module.AdaptableOf(named.Parameter) is { Experts: > 1 }).Count();
            var isUniform = all == alike.Count() && alike.Select(static stack => (stack.Rank, stack.Alpha)).Distinct().Count() == 1;
            foreach (var stack in isUniform ? alike.Take(1) : alike)
            {
                var (target, pattern) = isUniform ? (alike.Key, ExpertTargets.Pattern(alike.Key)) : (stack.Path, Regex.Escape(stack.Path));
                config = config with
                {
                    TargetParameters = [.. (config.TargetParameters ?? []).Append(target).Distinct(StringComparer.Ordinal)],
                    RankPattern = Patterned(config.RankPattern, pattern, stack.Path, stack.Rank, config.Rank),
                    AlphaPattern = Patterned(config.AlphaPattern, pattern, stack.Path, stack.Alpha, config.Alpha),
                };
            }
        }

        return config;
    }

    /// <summary>Targets without the names that only experts of their own had.</summary>
    private static ModuleNames? Remaining(ModuleNames? targets, PretrainedModel model) => targets switch
    {
        { Names: { } names } => ModuleNames.Of(names.Where(name => ExpertTargets.IsModule(name, model))),
        { IsAllLinear: false } when !model.Descendants().Any(module => TargetMatcher.EndsIn(targets, module.Path)) => ModuleNames.Of(),
        _ => targets,
    };

    /// <summary>A table in which a path has a value: as it is where it has it already, with an entry at its end, or in front of one that says otherwise.</summary>
    private static IReadOnlyDictionary<string, T> Patterned<T>(IReadOnlyDictionary<string, T> table, string key, string path, T value, T otherwise)
        where T : struct
    {
        if (TargetMatcher.Lookup(table, path, otherwise).Equals(value))
        {
            return table;
        }

        var added = ExpertTargets.With(table, key, value);
        return TargetMatcher.Lookup(added, path, otherwise).Equals(value) ? added : new Dictionary<string, T>(table.Where(entry => entry.Key != key).Prepend(KeyValuePair.Create(key, value)), StringComparer.Ordinal);
    }

    /// <summary>What a file has for the experts of one weight.</summary>
    private sealed class Stack(string path, IAdaptable layer, int parts, LoraConfig config, TensorStore file)
    {
        private readonly Dictionary<(int Expert, int Part, bool IsA), string> _names = [];
        private readonly long[] _ranks = new long[parts];
        private readonly double[] _scales = new double[parts];

        public string Path => path;

        public IAdaptable Layer => layer;

        /// <summary>Ranks of all parts together.</summary>
        public int Rank => (int)_ranks.Sum();

        /// <summary>Gives the strength of the first part; those of others are in their factors.</summary>
        public double Alpha => config.UseRslora ? Scale * Math.Sqrt(Rank) : Scale * Rank;

        private double Scale => Array.Find(_scales, static scale => scale != 0);

        /// <summary>Takes a factor in.</summary>
        /// <returns>False for one that fits no expert.</returns>
        public bool Add(string name, int expert, int part, bool isA, string module)
        {
            var shape = file.Entry(name).Shape;
            if (expert >= layer.Experts || shape.Count != 2 || shape[isA ? 1 : 0] != (isA ? layer.Inputs : layer.Outputs / parts))
            {
                return false;
            }

            var rank = shape[isA ? 0 : 1];
            _names[(expert, part, isA)] = name;
            _ranks[part] = Math.Max(_ranks[part], rank);
            _scales[part] = config.Scale(TargetMatcher.Lookup(config.AlphaPattern, module, config.Alpha), (int)_ranks[part]);
            return true;
        }

        /// <summary>[experts · rank, in], one expert after another.</summary>
        public Tensor FormA()
        {
            using var scope = NewDisposeScope();
            var all = zeros(layer.Experts, Rank, layer.Inputs);
            ForEach(isA: true, (expert, _, start, factor) => all[expert].narrow(0, start, factor.size(0)).copy_(factor));
            return all.view(-1, layer.Inputs).MoveToOuterDisposeScope();
        }

        /// <summary>[out, rank · experts], one rank after another.</summary>
        public Tensor FormB()
        {
            using var scope = NewDisposeScope();
            var all = zeros(layer.Experts, layer.Outputs, Rank);
            ForEach(isA: false, (expert, part, start, factor) =>
                all[expert].narrow(0, part * factor.size(0), factor.size(0)).narrow(1, start, factor.size(1)).copy_(factor.mul(_scales[part] / Scale)));
            return all.permute(1, 2, 0).reshape(layer.Outputs, -1).MoveToOuterDisposeScope();
        }

        private void ForEach(bool isA, Action<int, int, long, Tensor> put)
        {
            foreach (var ((expert, part, _), name) in _names.Where(entry => entry.Key.IsA == isA))
            {
                put(expert, part, _ranks.Take(part).Sum(), file.Read(name, ScalarType.Float32));
            }
        }
    }
}
