using System.Text.RegularExpressions;
using Peft.Adapters.Files;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>
/// LoRA on experts as files had it before the weights of all experts were one, for programs that still read those: factors for each layer of each
/// expert, under its name of then. <see cref="ExpertFactors"/> reads them.
/// </summary>
internal static class PerExpertLayout
{
    private const string AnyExpert = @"\.\d+\.";

    /// <summary>An adapter's configuration and tensors in that layout.</summary>
    /// <param name="adapter">The adapter.</param>
    /// <param name="model">Its model.</param>
    /// <param name="tensors">What its file holds in today's layout.</param>
    /// <exception cref="NotSupportedByPeftException"><c>AdapterFormatNotSupported</c>: the adapter has nothing on experts, or they never had layers of their own.</exception>
    public static (LoraConfig Config, List<(string Key, Tensor Value)> Tensors) Of(Adapter adapter, PretrainedModel model, IEnumerable<(string Key, Tensor Value)> tensors)
    {
        AdaptedLayer[] stacked = [.. adapter.Layers.Where(static layer => layer.Adapter is ExpertLoraLayer)];
        if (adapter.Config is not LoraConfig config || stacked.Length == 0)
        {
            throw Refused(adapter, "it has no LoRA on experts");
        }

        Piece[] pieces = [.. stacked.SelectMany(layer => Pieces(adapter, layer, config, model))];
        var paths = adapter.Layers.Where(static layer => layer.Layer is Router).ToDictionary(static layer => layer.Path, layer => FileName(layer.Layer, model), StringComparer.Ordinal);
        var own = stacked.SelectMany(static layer => layer.Adapter.Parameters).Select(static parameter => parameter.Parameter).ToHashSet();
        var replaced = adapter.Parameters().Where(parameter => own.Contains(parameter.Parameter)).Select(static parameter => parameter.FileKey).ToHashSet(StringComparer.Ordinal);
        List<(string, Tensor)> written = [.. tensors.Where(entry => !replaced.Contains(entry.Key)).Select(entry => (Renamed(entry.Key, paths), entry.Value))];
        foreach (var piece in pieces)
        {
            written.Add(($"{AdapterFile.Prefix}{piece.Module}.lora_A.weight", piece.A));
            written.Add(($"{AdapterFile.Prefix}{piece.Module}.lora_B.weight", piece.B));
        }

        return (Converted(config, pieces, [.. paths.Values], adapter.Layers, model), written);
    }

    private static NotSupportedByPeftException Refused(Adapter adapter, string why) => new("AdapterFormatNotSupported", $"'{adapter.Name}' can't be written with factors for each expert: {why}.")
    {
        Target = adapter.Name,
        RecommendedAction = "Write it in today's layout, which PEFT reads: leave the layout out.",
    };

    /// <summary>What the layers of single experts have of the factors of a weight. Ranks that change nothing of a layer are left out of it, and a layer that nothing changes beside one that is changed.</summary>
    private static List<Piece> Pieces(Adapter adapter, AdaptedLayer adapted, LoraConfig config, PretrainedModel model)
    {
        var (lora, layer) = ((ExpertLoraLayer)adapted.Adapter, adapted.Layer);
        var places = model.Keys.Places(WeightPath(layer), _ => layer.Weight.Shape).First();
        if (places.Any(static place => place.Expert is null))
        {
            throw Refused(adapter, $"files of {model.Config.ModelType} never held the experts of {WeightPath(layer)} one by one");
        }

        var (rank, scale) = config.ForLayer(layer);
        var a = adapter.Saved(lora.A).view(layer.Experts, rank, layer.Inputs);
        var b = adapter.Saved(lora.B).view(layer.Outputs, rank, layer.Experts).permute(2, 0, 1);
        var parts = places.Select(static place => place.Start).Distinct().ToDictionary(static start => start, start => UsedRanks(b, start, places.First(place => place.Start == start).Size));
        var isFresh = parts.Values.All(static ranks => ranks.Length == 0);
        List<Piece> pieces = [];
        foreach (var place in places.Where(place => isFresh || parts[place.Start].Length > 0))
        {
            var ranks = isFresh ? [.. Enumerable.Range(0, rank).Select(static i => (long)i)] : parts[place.Start];
            var chosen = tensor(ranks, device: a.device);
            var alpha = scale * (config.UseRslora ? Math.Sqrt(ranks.Length) : ranks.Length);
            pieces.Add(new Piece(
                WithoutWeight(place.Name), ranks.Length, alpha,
                a[place.Expert!.Value].index_select(0, chosen).contiguous(),
                b[place.Expert!.Value].narrow(0, place.Start, place.Size).index_select(1, chosen).contiguous()));
        }

        return pieces;
    }

    private static long[] UsedRanks(Tensor b, long start, long size)
    {
        using var scope = NewDisposeScope();
        return b.narrow(1, start, size).ne(0).any(1).any(0).nonzero().view(-1).cpu().data<long>().ToArray();
    }

    private static string WeightPath(IAdaptable layer) => $"{layer.Path}.{layer.Weight.Name}";

    private static string WithoutWeight(string name) => name.EndsWith(".weight", StringComparison.Ordinal) ? name[..^".weight".Length] : name;

    private static string FileName(IAdaptable layer, PretrainedModel model) => WithoutWeight(model.Keys.Places(WeightPath(layer), _ => layer.Weight.Shape).First()[0].Name);

    private static string Renamed(string key, Dictionary<string, string> paths)
    {
        foreach (var (path, name) in paths)
        {
            var start = $"{AdapterFile.Prefix}{path}.";
            if (key.StartsWith(start, StringComparison.Ordinal))
            {
                return $"{AdapterFile.Prefix}{name}.{key[start.Length..]}";
            }
        }

        return key;
    }

    private static LoraConfig Converted(LoraConfig config, Piece[] pieces, string[] routers, IReadOnlyList<AdaptedLayer> layers, PretrainedModel model)
    {
        var parameters = layers.Where(static layer => layer.Adapter is ExpertLoraLayer || layer.Layer is Router).Select(static layer => WeightPath(layer.Layer)).ToArray();
        string[] others = [.. layers.Where(static layer => layer.Adapter is not ExpertLoraLayer).Select(static layer => layer.Path)];
        config = config with
        {
            TargetParameters = config.TargetParameters?.Where(name => !parameters.Any(path => TargetMatcher.EndsWith(path, name))).ToArray() is { Length: > 0 } left ? left : null,
            TargetModules = Targets(config.TargetModules, pieces, [.. routers.Select(Leaf).Distinct()], model),
            RankPattern = OfOthers(config.RankPattern, others),
            AlphaPattern = OfOthers(config.AlphaPattern, others),
        };
        foreach (var alike in pieces.GroupBy(static piece => Leaf(piece.Module)))
        {
            var kinds = alike.DistinctBy(static piece => Pattern(piece.Module, isWhole: true)).ToArray();
            var isUniform = kinds.Select(static piece => (piece.Rank, piece.Alpha)).Distinct().Count() == 1;
            foreach (var piece in isUniform ? kinds.Take(1) : kinds)
            {
                var key = Pattern(piece.Module, !isUniform);
                config = config with
                {
                    RankPattern = piece.Rank == config.Rank ? config.RankPattern : ExpertTargets.With(config.RankPattern, key, piece.Rank),
                    AlphaPattern = piece.Alpha == config.Alpha ? config.AlphaPattern : ExpertTargets.With(config.AlphaPattern, key, piece.Alpha),
                };
            }
        }

        return config;
    }

    /// <summary>The targets and the layers of experts: by name, or where a module outside the experts has such a name and isn't a target, by a pattern.</summary>
    private static ModuleNames Targets(ModuleNames? targets, Piece[] pieces, string[] routers, PretrainedModel model)
    {
        string[] leaves = [.. pieces.Select(static piece => Leaf(piece.Module)).Distinct()];
        var names = targets?.Names ?? [];
        if (targets is not { Pattern: not null } && !leaves.Except(names).Any(leaf => ExpertTargets.IsModule(leaf, model)))
        {
            return ModuleNames.Of(names.Concat(routers).Concat(leaves).Distinct(StringComparer.Ordinal));
        }

        if (targets is { IsAllLinear: true })
        {
            return targets;
        }

        var ofExperts = string.Join('|', pieces.Select(static piece => Pattern(piece.Module, isWhole: false)).Distinct().Concat(routers.Select(Regex.Escape)).Concat(names.Select(Regex.Escape)));
        return ModuleNames.Matching($@"{(targets?.Pattern is { } pattern ? $"(?:{pattern})|" : "")}(?:.*\.)?(?:{ofExperts})");
    }

    /// <summary>A table without the entries that are about experts alone.</summary>
    private static IReadOnlyDictionary<string, T> OfOthers<T>(IReadOnlyDictionary<string, T> table, string[] others) => table
        .Where(entry => others.Any(path => TargetMatcher.Lookup(new Dictionary<string, bool> { [entry.Key] = true }, path, false)))
        .ToDictionary(static entry => entry.Key, static entry => entry.Value, StringComparer.Ordinal);

    private static string Leaf(string module) => module[(module.LastIndexOf('.') + 1)..];

    /// <summary>A pattern for that layer of every expert: of its block, or wherever experts stand.</summary>
    private static string Pattern(string module, bool isWhole)
    {
        var leaf = module.LastIndexOf('.');
        var above = module[..module.LastIndexOf('.', leaf - 1)];
        return Regex.Escape(isWhole ? above : Leaf(above)) + AnyExpert + Regex.Escape(module[(leaf + 1)..]);
    }

    /// <summary>The factors of one layer of one expert.</summary>
    private sealed record Piece(string Module, int Rank, double Alpha, Tensor A, Tensor B);
}
