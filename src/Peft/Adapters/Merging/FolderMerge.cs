using Peft.Adapters.Model;
using Peft.Engine;
using Peft.Files;
using Peft.Models;
using Peft.Quantization.Checkpoints;
using Peft.Tensors;
using Peft.Tokenization;
using static TorchSharp.torch;

namespace Peft.Adapters.Merging;

/// <summary>
/// Merges adapters from folder to folder: the base's weights stay in the files that they are mapped from, those of one file of the result are merged at a time, written
/// and let go of. What memory holds at once is the adapters, one such file, and one layer in float32.
/// </summary>
public static class FolderMerge
{
    /// <summary>Bytes of a file of the result at most, which is what memory has to hold.</summary>
    public const long ShardBytes = 1L << 30;

    /// <summary>Merges.</summary>
    /// <param name="basePath">The base model's folder.</param>
    /// <param name="adapters">Folders of adapters, innermost first.</param>
    /// <param name="output">Folder of the merged model; what is there stays where something fails.</param>
    /// <param name="shardBytes">Bytes of a file of the result at most, unless a single tensor is larger.</param>
    /// <param name="options">Whether values that are no numbers are refused, what changes are added to where the base is quantised, and what ends the merge.</param>
    /// <param name="onProgress">Sees the tensors that are written, and how many there are.</param>
    /// <returns>What was written.</returns>
    /// <exception cref="PeftException">What is wrong with the folders; <c>MergeNotPossible</c>, <c>MergeNotFinite</c>; <c>OutputExists</c>: the result would replace the base.</exception>
    /// <exception cref="NotSupportedByPeftException">A base quantised by a method without code, or a form that is only read, or what has no code.</exception>
    public static FolderMergeReport Run(string basePath, IReadOnlyList<string> adapters, string output, long shardBytes = ShardBytes, MergeOptions? options = null, Action<int, int>? onProgress = null)
    {
        options ??= new MergeOptions();
        if (string.Equals(Path.GetFullPath(basePath), Path.GetFullPath(output), StringComparison.Ordinal))
        {
            throw new PeftException("OutputExists", $"'{output}' is the base that is read from: the merged model goes into another folder.") { Target = output, RecommendedAction = "Choose another folder." };
        }

        using var noGradients = no_grad();
        using var model = Open(basePath, options);
        List<string> messages = [];
        string[] names = [.. adapters.Select((_, index) => FormattableString.Invariant($"a{index}"))];
        foreach (var (name, folder) in names.Zip(adapters))
        {
            messages.AddRange(model.LoadAdapter(folder, name).Report.Messages);
        }

        model.SetActive(names);
        if (names.Select(name => model[name].Adapter.MergeObstacle).FirstOrDefault(static obstacle => obstacle is not null) is { } obstacle)
        {
            throw new PeftException("MergeNotPossible", $"An adapter can't be merged: {obstacle}.") { Target = basePath };
        }

        if (options.Ground == MergeGround.Quantized && model.Base.NamedParameters().Where(static named => named.Parameter is { Packed: not null, Slot: not null }).ToArray() is [var first, ..] packed)
        {
            messages.Add(ModelMerge.QuantisedAgain(packed.Length, first.Parameter.Packed!.Kind));
        }

        var plan = new Plan(model.Base, WeightMerge.ByModule(model.Base, model.ActiveSet, options), shardBytes, options.Ground == MergeGround.Quantized);
        AtomicFile.MakeFolder(output);
        var companions = new CompanionFiles(model.Tokenizer?.Files ?? [], Tokenizer.FilesIn(output));
        var parameters = names.SelectMany(name => model[name].Adapter.Parameters()).DistinctBy(static parameter => parameter.Parameter);
        var id = SaveId.Of(parameters.Select(static parameter => (parameter.FullKey, parameter.Parameter.Data)), null, $"{ModelDigest.Of(model.Base)} {plan.Count}");
        var done = 0;
        var files = SafetensorsWriter.WriteFolder(output, plan.Count, plan.Make, id, () =>
        {
            options.Cancellation.ThrowIfCancellationRequested();
            onProgress?.Invoke(++done, plan.Tensors);
        }, ModelLoader.Documents(model.Base, options.Ground == MergeGround.Unpacked ? model.DataType : null), companions);
        return new FolderMergeReport(files, plan.LargestShard, messages);
    }

    /// <summary>The base whose weights the changes are added to.</summary>
    private static PeftModel Open(string basePath, MergeOptions options)
    {
        var load = new LoadOptions { StaysMapped = true, Cancellation = options.Cancellation };
        if (options.Ground != MergeGround.Original)
        {
            return PeftModel.Load(basePath, load, "base");
        }

        var path = options.OriginalPath ?? throw new PeftException("MergeOriginalMissing", $"'{basePath}' is to be merged onto the weights that it was made from, whose folder isn't named.") { Target = basePath };
        var model = PeftModel.Load(path, load, "base");
        if (model.Quantization is { } kind)
        {
            model.Dispose();
            throw new PeftException("MergeOriginalMissing", $"'{path}' holds quantised weights ({kind}), not those that they were made from.") { Target = path };
        }

        return model;
    }

    /// <summary>Which tensors each file holds, and the work of making them.</summary>
    private sealed class Plan
    {
        private readonly List<List<IGrouping<string, (NamedParameter Named, FilePart Part)>>> _shards = [[]];
        private readonly Dictionary<Parameter, int> _uses = [];
        private readonly HashSet<Module> _merged = [];
        private readonly PretrainedModel _model;
        private readonly Action<Module> _merge;
        private readonly bool _keepsPacked;
        private int _made = -1;

        public Plan(PretrainedModel model, Action<Module> merge, long shardBytes, bool keepsPacked)
        {
            _keepsPacked = keepsPacked;
            _model = model;
            _merge = merge;

            // Whether shared weights part is known once they are merged, so these come first.
            var all = model.NamedParameters().ToArray();
            var shared = all.Where(static named => !named.Parameter.IsOwner).SelectMany(static named => new[] { named.Parameter, named.Parameter.TiedTo! }).ToHashSet();
            foreach (var named in all.Where(named => shared.Contains(named.Parameter)))
            {
                Merge(named.Module);
            }

            long filled = 0;
            foreach (var piece in WeightFiles.Pieces(model))
            {
                var bytes = piece.Sum(entry => Bytes(entry.Named.Parameter, entry.Part));
                if (filled > 0 && filled + bytes > shardBytes)
                {
                    _shards.Add([]);
                    filled = 0;
                }

                _shards[^1].Add(piece);
                filled += bytes;
                LargestShard = Math.Max(LargestShard, filled);
                foreach (var (named, _) in piece)
                {
                    _uses[named.Parameter] = _uses.GetValueOrDefault(named.Parameter) + 1;
                }
            }

            Tensors = _shards.Sum(shard => shard.Sum(piece => (keepsPacked ? piece.First().Named.Parameter.Packed?.Stored(piece.Key)?.Count() : null) ?? 1)) + model.Carried.Count;
        }

        public int Count => _shards.Count;

        public int Tensors { get; }

        public long LargestShard { get; }

        /// <summary>The tensors of a file, merged; what the file before it needed alone is freed.</summary>
        public IReadOnlyList<(string Name, Tensor Value)> Make(int index)
        {
            if (_made >= 0)
            {
                Free(_shards[_made]);

                // The next file's weights don't fit into all of the holes.
                FreedMemory.GiveBack();
            }

            _made = index;
            foreach (var (named, _) in _shards[index].SelectMany(static piece => piece))
            {
                Merge(named.Module);
            }

            List<(string, Tensor)> tensors = [.. _shards[index].SelectMany(piece => (_keepsPacked ? WeightFiles.Packed([.. piece]) : null) ?? [(piece.Key, WeightFiles.Whole(piece))])];
            return index == Count - 1 ? [.. tensors, .. _model.Carried.Select(static entry => (entry.Name, entry.Tensor))] : tensors;
        }

        private long Bytes(Parameter parameter, FilePart part)
        {
            if (_keepsPacked && parameter.Packed is { IsStorable: true } form)
            {
                return form.Bytes * part.Size / Math.Max(1, parameter.Shape[0]);
            }

            var rows = parameter.Shape.Take(part.Expert is null ? 1 : 2).Aggregate(1L, static (all, size) => all * size);
            return rows == 0 ? 0 : parameter.Count / rows * part.Size * ElementType.SizeOf(parameter.DataType);
        }

        private void Merge(Module module)
        {
            if (_merged.Add(module))
            {
                _merge(module);
            }
        }

        private void Free(IEnumerable<IGrouping<string, (NamedParameter Named, FilePart Part)>> pieces)
        {
            foreach (var (named, _) in pieces.SelectMany(static piece => piece))
            {
                if (--_uses[named.Parameter] == 0)
                {
                    named.Parameter.Release();
                }
            }
        }
    }
}

/// <summary>What a merge from folder to folder wrote.</summary>
/// <param name="Files">Paths of the merged model's files.</param>
/// <param name="LargestShard">Bytes of the weights of the largest of them, which memory held at once.</param>
/// <param name="Messages">What the user should know.</param>
public sealed record FolderMergeReport(IReadOnlyList<string> Files, long LargestShard, IReadOnlyList<string> Messages);
