using Peft.Engine;
using Peft.Models.Layers;
using Peft.Models.Placement;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>Finds a model's weights in a store by the names that its family's files use, and reads them into place.</summary>
internal sealed class WeightReader
{
    private readonly PretrainedModel _model;
    private readonly TensorStore _store;
    private readonly LoadOptions _options;
    private readonly Dictionary<string, IReadOnlyList<FilePart>> _places = [];

    // Parameters whose memory is there and waits for values: views of the tensor that a group computes with.
    private readonly HashSet<Parameter> _allocated = [];

    // Layers whose weights are packed once they are read; those that may share weights with others wait until that is known.
    private readonly IReadOnlySet<Linear> _packed;
    private readonly HashSet<string> _tied;
    private readonly UnpackBuffer _buffer = new();
    private long _plainBytes;
    private WeightPlacement? _placement;

    public WeightReader(PretrainedModel model, TensorStore store, LoadOptions options)
    {
        _model = model;
        _store = store;
        _options = options;
        _packed = options.Packing?.Targets(model) ?? new HashSet<Linear>();
        _tied = [.. model.PossibleTies.SelectMany(static tie => new[] { tie.Owner, tie.Follower })];
        var parameters = model.NamedWeights().ToDictionary(static named => named.Path, static named => named.Parameter, StringComparer.Ordinal);
        foreach (var path in parameters.Keys)
        {
            if (Find(path, sibling => parameters[sibling].Shape) is { } found)
            {
                _places.Add(path, found);
            }
        }
    }

    /// <summary>What each weight will take, by its path; weights that are shared once.</summary>
    public Dictionary<string, long> Bytes()
    {
        var followers = _model.TiedParameters.Select(static tie => tie.Follower).ToHashSet(StringComparer.Ordinal);
        return _model.NamedWeights().Where(named => !followers.Contains(named.Path)).ToDictionary(static named => named.Path, BytesOf, StringComparer.Ordinal);
    }

    /// <summary>Has weights read to where they are to lie.</summary>
    public void PlaceBy(WeightPlacement? placement)
    {
        _placement = placement;
        placement?.Open(_store);
    }

    /// <summary>Where a weight is read to.</summary>
    public Device DeviceOf(string path) => _placement?.DeviceOf(path) ?? _options.Device ?? CPU;

    /// <summary>
    /// Makes one tensor for the weights of layers that are computed together, so that they are read straight into it. Weights that stay in the file
    /// are joined when they are first used.
    /// </summary>
    public void Allocate()
    {
        foreach (var group in _model.Descendants().SelectMany(static module => module.Groups).Where(group => !group.Members.Any(member => IsPacked(member) || IsElsewhere(member))))
        {
            if (group.Members.All(member => member.Parameters.All(parameter => StaysInFile($"{member.Path}.{parameter.Name}", parameter))))
            {
                continue;
            }

            var types = group.Members.SelectMany(Paths).Select(path => _places.TryGetValue(path, out var parts) ? Type(parts[0]) : (ScalarType?)null).Distinct().ToArray();
            if (types is [{ } type])
            {
                _allocated.UnionWith(group.Allocate(type, DeviceOf(Paths(group.Members[0]).First())));
            }
        }
    }

    /// <summary>Whether the store holds a parameter.</summary>
    public bool Finds(string path) => _places.ContainsKey(path);

    /// <summary>Reads a parameter, and packs it where that is asked for; false where the store doesn't hold it.</summary>
    public bool Read(string path, Parameter parameter, Module module)
    {
        if (!_places.TryGetValue(path, out var parts))
        {
            return false;
        }

        if (StoredForm(module, parameter, parts) is { } form)
        {
            parameter.Pack(((IPackedStore)_store).ReadPacked(form.Name, _buffer, form.IsTransposed, DeviceOf(path)));
            return true;
        }

        var layer = module is Linear linear && ReferenceEquals(linear.Weight, parameter) ? linear : null;
        var packs = layer is not null && _packed.Contains(layer) && !_tied.Contains(path);
        ReadPlain(path, parameter, parts, packs);
        if (packs)
        {
            _plainBytes += parameter.Bytes;
            parameter.Pack(_options.Packing!.Pack(layer!, parameter.Data));
            if (_plainBytes > FreedMemory.WorthBytes)
            {
                _plainBytes = 0;
                FreedMemory.GiveBack();
            }
        }

        return true;
    }

    /// <summary>Packs what might have shared its weights with another and doesn't.</summary>
    public void PackRest()
    {
        foreach (var layer in _packed.Where(static layer => layer.Weight is { IsOwner: true, Value: not null }))
        {
            using var scope = NewDisposeScope();
            layer.Weight.Pack(_options.Packing!.Pack(layer, layer.Weight.Data));
        }

        if (_options.Packing is { } packing)
        {
            FreedMemory.GiveBack();
            packing.RefuseNone(_packed, _model);
            _model.Config.Document["quantization_config"] = packing.Document.DeepClone();
        }
    }

    /// <summary>Remembers the names that were read, and keeps what no parameter wanted.</summary>
    public void Finish()
    {
        var owners = _model.NamedWeights().Where(static named => named.Parameter.IsOwner).ToArray();

        // transformers reads names without the backbone's prefix only where the whole file is so.
        var prefix = _model.BackbonePath + ".";
        var isBare = prefix.Length > 1 && Array.TrueForAll(owners, named => named.Path.StartsWith(prefix, StringComparison.Ordinal));
        foreach (var (path, parts) in _places)
        {
            _model.Places[path] = prefix.Length > 1 && !isBare && path.StartsWith(prefix, StringComparison.Ordinal)
                ? [.. parts.Select(part => part.Name == path[prefix.Length..] || part.Name == $"{_model.Config.Family.Prefix}.{path[prefix.Length..]}" ? part with { Name = path } : part)]
                : parts;
        }

        if (_model.Config.Architecture is { } architecture && architecture != _model.ClassName)
        {
            return;
        }

        var read = _places.Values.SelectMany(static parts => parts.Select(static part => part.Name)).ToHashSet(StringComparer.Ordinal);
        foreach (var name in _store.Names.Where(name => !read.Contains(name)))
        {
            _model.Carry(name, _store.Map(name));
        }
    }

    /// <summary>Values in memory of their own where they are packed next: pages of a mapped file would stay.</summary>
    private void ReadPlain(string path, Parameter parameter, IReadOnlyList<FilePart> parts, bool packs)
    {
        if (!_allocated.Contains(parameter))
        {
            if (Alone(parts, parameter) is { } only)
            {
                Check(_store.Entry(only.Name).Shape, parameter.Shape, path);
                var values = packs ? _store.Read(only.Name, TypeOf(parameter)) : _store.Map(only.Name, TypeOf(parameter));
                parameter.Assign(ModelLoader.Placed(values, DeviceOf(path)));
                return;
            }

            parameter.Assign(empty([.. parameter.Shape], TypeOf(parameter) ?? Type(parts[0]), DeviceOf(path)));
        }

        foreach (var part in parts)
        {
            Copy(part, parameter.Data, path);
        }
    }

    /// <summary>The name under which the file holds the weight of a linear layer or of experts packed and on its own, and whether its layout is [inputs, outputs]; null where it doesn't.</summary>
    private (string Name, bool IsTransposed)? StoredForm(Module module, Parameter parameter, IReadOnlyList<FilePart> parts) =>
        parts is [{ Expert: null, FileStart: 0 } only] && parameter.Shape is [var size, ..] && only.Size == size
        && _store is IPackedStore store && store.IsPacked(only.Name)
        && module.AdaptableOf(parameter) is (Linear or ExpertWeight) and var layer && (layer is Linear { IsTransposed: true } || IsWhole(only)) ? (only.Name, layer.IsTransposed) : null;

    private bool StaysInFile(string path, Parameter parameter) =>
        _places.TryGetValue(path, out var parts) && Alone(parts, parameter) is { } only && _store.StaysInFile(only.Name)
        && DeviceOf(path).type == DeviceType.CPU
        && (TypeOf(parameter) is not { } type || type == _store.Entry(only.Name).ScalarType);

    /// <summary>The tensor of a file that is a parameter and nothing else, or null.</summary>
    private FilePart? Alone(IReadOnlyList<FilePart> parts, Parameter parameter) =>
        parts is [{ Expert: null } only] && only.Size == parameter.Shape.FirstOrDefault(1) && IsWhole(only) ? only : null;

    private bool IsPacked(Linear layer) =>
        _packed.Contains(layer) || (_places.TryGetValue($"{layer.Path}.{layer.Weight.Name}", out var parts) && StoredForm(layer, layer.Weight, parts) is not null);

    private bool IsElsewhere(Linear member) => Paths(member).Any(path => _placement?.IsOffloaded(path) == true);

    private long BytesOf(NamedParameter named)
    {
        var (path, parameter, module) = named;
        var layer = module is Linear linear && ReferenceEquals(linear.Weight, parameter) ? linear : null;
        var parts = _places.GetValueOrDefault(path);
        return parts is not null && StoredForm(module, parameter, parts) is { } form ? ((IPackedStore)_store).PackedBytes(form.Name)
            : layer is not null && _packed.Contains(layer) && !_tied.Contains(path) ? _options.Packing!.BytesOf(layer)
            : parameter.Count * ElementType.SizeOf(TypeOf(parameter) ?? (parts is null ? ScalarType.Float32 : Type(parts[0])));
    }

    private static IEnumerable<string> Paths(Linear member) => member.Parameters.Select(parameter => $"{member.Path}.{parameter.Name}");

    private ScalarType? TypeOf(Parameter parameter) => parameter.KeepsFloat32 ? ScalarType.Float32 : _options.DataType;

    private bool IsWhole(FilePart part) => part.FileStart == 0 && _store.Entry(part.Name).Shape.FirstOrDefault(1) == part.Size;

    private ScalarType Type(FilePart part) => _options.DataType ?? _store.Entry(part.Name).ScalarType;

    private IReadOnlyList<FilePart>? Find(string path, Func<string, IReadOnlyList<long>> shapeOf)
    {
        // A model without a backbone has no prefix that could be missing.
        var usual = (_model.Config.KnownFamily?.Prefix ?? "") + ".";
        var prefix = _model.BackbonePath.Length > 0 ? _model.BackbonePath + "." : usual;
        foreach (var place in _model.Keys.Places(path, shapeOf))
        {
            if (place.All(part => _store.Contains(part.Name)))
            {
                return place;
            }

            // The backbone's prefix may be missing (a file of the backbone alone) or too much (the backbone of a file with a head).
            var name = place[0].Name;
            Func<FilePart, FilePart>? other = name.StartsWith(prefix, StringComparison.Ordinal)
                ? part => part with { Name = part.Name[prefix.Length..] }
                : _model.BackbonePath.Length == 0 ? part => part with { Name = prefix + part.Name } : null;
            if (other is not null && place.All(part => _store.Contains(other(part).Name)))
            {
                return [.. place.Select(other)];
            }

            // Some heads have a name of their own for the backbone, and the file may be another head's.
            if (prefix != usual && usual.Length > 1 && prefix.IndexOf('.', StringComparison.Ordinal) == prefix.Length - 1 && place.All(part => part.Name.StartsWith(prefix, StringComparison.Ordinal) && _store.Contains(usual + part.Name[prefix.Length..])))
            {
                return [.. place.Select(part => part with { Name = usual + part.Name[prefix.Length..] })];
            }
        }

        return null;
    }

    private void Copy(FilePart part, Tensor to, string path)
    {
        using var scope = NewDisposeScope();
        var target = part.Expert is { } expert ? to.select(0, expert) : to;
        target = target.dim() == 0 ? target : target.narrow(0, part.Start, part.Size);
        var source = _store.Map(part.Name);
        var isPiece = source.dim() > 0 && !IsWhole(part) && part.FileStart + part.Size <= source.size(0);
        source = isPiece ? source.narrow(0, part.FileStart, part.Size) : source;
        Check(source.shape, target.shape, path);
        target.copy_(source);

        // The copy is what is computed with; the file's pages would stay beside it.
        _store.DropPages(source);
    }

    private void Check(IReadOnlyList<long> found, IReadOnlyList<long> expected, string path)
    {
        if (!found.SequenceEqual(expected))
        {
            throw new PeftException(
                "ShapeMismatch",
                $"'{path}' has shape [{string.Join(", ", expected)}] by the model's configuration, but '{_store.Path}' holds [{string.Join(", ", found)}].")
            {
                Target = path,
                RecommendedAction = "Use the config.json that belongs to these weights.",
            };
        }
    }
}

/// <summary>A model's weights as its files hold them.</summary>
internal static class WeightFiles
{
    /// <summary>Every tensor to save, by the name it was read under or its family publishes it under.</summary>
    /// <param name="model">A loaded model.</param>
    /// <param name="type">Type to save in; null for each weight's own.</param>
    public static IEnumerable<(string Name, Tensor Tensor)> Tensors(PretrainedModel model, ScalarType? type)
    {
        foreach (var piece in Pieces(model))
        {
            if (type is null && Packed([.. piece]) is { } stored)
            {
                foreach (var entry in stored)
                {
                    yield return entry;
                }

                continue;
            }

            var whole = Whole(piece);
            yield return (piece.Key, type is { } wanted ? whole.to(wanted) : whole);
        }

        foreach (var entry in model.Carried)
        {
            yield return entry;
        }
    }

    /// <summary>What each tensor of a file is made of, by its name.</summary>
    public static IEnumerable<IGrouping<string, (NamedParameter Named, FilePart Part)>> Pieces(PretrainedModel model)
    {
        // A part of a larger model has names of its own in its files.
        var start = model.Path.Length == 0 ? 0 : model.Path.Length + 1;
        var shapes = model.NamedWeights().ToDictionary(named => named.Path[start..], static named => named.Parameter.Shape, StringComparer.Ordinal);
        return from named in model.NamedWeights()
               where named.Parameter.IsOwner
               from part in model.Places.GetValueOrDefault(named.Path[start..]) ?? model.Keys.Places(named.Path[start..], path => shapes[path]).First()
               group (named, Part: part) by part.Name;
    }

    /// <summary>A file's tensor, of the pieces that it is made of.</summary>
    public static Tensor Whole(IEnumerable<(NamedParameter Named, FilePart Part)> pieces)
    {
        var tensors = pieces.OrderBy(static entry => entry.Part.FileStart).Select(static entry => Piece(entry.Named.Parameter, entry.Part)).ToArray();
        return tensors.Length == 1 ? tensors[0] : cat(tensors, 0);
    }

    /// <summary>The tensors of a packed weight, where a file can hold it so; null for a plain one. Weights that a file has joined are packed again as one.</summary>
    internal static IEnumerable<(string Name, Tensor Tensor)>? Packed((NamedParameter Named, FilePart Part)[] pieces)
    {
        var name = pieces[0].Part.Name;
        if (pieces[0].Named.Parameter.Packed is not { } form || form.Stored(name) is not { } stored)
        {
            return null;
        }

        if (pieces is [{ Part: { Expert: null, FileStart: 0 } only, Named.Parameter: var whole }] && only.Size == whole.Shape[0])
        {
            return stored;
        }

        using var joined = form.Repack(cat([.. pieces.OrderBy(static entry => entry.Part.FileStart).Select(static entry => Piece(entry.Named.Parameter, entry.Part))], 0));
        return [.. joined.Stored(name)!.Select(static entry => (entry.Name, entry.Tensor.clone()))];
    }

    private static Tensor Piece(Parameter parameter, FilePart part)
    {
        var values = parameter.Unpacked(parameter.DataType);
        var own = part.Expert is { } expert ? values.select(0, expert) : values;
        return own.dim() == 0 || own.size(0) == part.Size ? own : own.narrow(0, part.Start, part.Size);
    }
}
