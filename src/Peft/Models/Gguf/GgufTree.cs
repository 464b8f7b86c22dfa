using System.Globalization;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Gguf;

/// <summary>A parameter and the tensors that files hold it in.</summary>
/// <param name="Path">Its path in the tree.</param>
/// <param name="Parameter">The parameter.</param>
/// <param name="Name">Its row in the family's map.</param>
/// <param name="Files">The tensors' names.</param>
/// <param name="Config">The configuration of the language model.</param>
internal sealed record GgufWeight(string Path, Parameter Parameter, GgufName Name, IReadOnlyList<string> Files, ModelConfig Config)
{
    /// <summary>The block it belongs to; null outside.</summary>
    public int? Layer { get; init; }

    /// <summary>Which row of the file's tensor it is; null where it is all of it.</summary>
    public int? Row { get; init; }

    /// <summary>Whether it is the weight of a layer that holds it as [inputs, outputs].</summary>
    public bool IsTransposed { get; init; }

    /// <summary>Whether the file holds the tensors of its name as one.</summary>
    public bool IsFused { get; private init; }

    /// <summary>Shapes of the file's tensors; of one row where it is one.</summary>
    public IReadOnlyList<IReadOnlyList<long>> Shapes
    {
        get
        {
            var own = IsTransposed ? [.. Parameter.Shape.Reverse()] : Parameter.Shape;
            var shapes = Name.Layout.Shapes?.Invoke(own, Config) ?? [own];
            return IsFused ? [[shapes[0][0], shapes.Sum(static shape => shape[1]), .. shapes[0].Skip(2)]] : shapes;
        }
    }

    /// <summary>The same parameter in a file that holds its tensors as one; null where none does.</summary>
    public GgufWeight? Fused => Name.Fused is { } fused ? this with { Files = [FormattableString.Invariant($"blk.{Layer}.{fused}")], IsFused = true } : null;

    /// <summary>Values as the file's tensors hold them.</summary>
    /// <param name="values">As the parameter holds them.</param>
    public IReadOnlyList<Tensor> ToFile(Tensor values) => Name.Layout.ToFile(IsTransposed ? values.t() : values, Config);

    /// <summary>The bytes of rows, in the order of the parameter's matrices [outputs, inputs].</summary>
    /// <param name="stored">As the file's tensors hold them.</param>
    public Tensor RowsToTree(IReadOnlyList<Tensor> stored) => Name.Layout.Blocks is { } form ? form.Join(Parts(stored)) : Name.Layout.ToTree(Parts(stored), Config);

    /// <summary>The bytes of rows as the file's tensors hold them.</summary>
    /// <param name="rows">In the order of the parameter's matrices [outputs, inputs].</param>
    public IReadOnlyList<Tensor> RowsToFile(Tensor rows) => Name.Layout.Blocks is { } form ? form.Cut(rows) : Name.Layout.ToFile(rows, Config);

    /// <summary>Values as the parameter holds them.</summary>
    /// <param name="stored">As the file's tensors hold them.</param>
    public Tensor ToTree(IReadOnlyList<Tensor> stored)
    {
        stored = Parts(stored);
        var values = Name.Layout.ToTree(Row is { } row ? [.. stored.Select(tensor => tensor.select(0, row))] : stored, Config);
        return (IsTransposed ? values.t() : values).contiguous();
    }

    private IReadOnlyList<Tensor> Parts(IReadOnlyList<Tensor> stored) => IsFused ? stored[0].chunk(Name.File.Count, 1) : stored;
}

/// <summary>A model's parameters by their names in GGUF files.</summary>
internal sealed class GgufTree
{
    // Decoders that llama.cpp has no code for.
    private static readonly string[] s_unknown = ["codegen", "gpt_neo", "gptj", "opt"];

    private readonly PretrainedModel _model;
    private readonly string _prefix;

    /// <summary>Looks at a model's structure.</summary>
    /// <param name="model">The model.</param>
    /// <param name="map">The map of the file that it comes from; null for the one that it is written by.</param>
    /// <exception cref="NotSupportedByPeftException"><c>GgufArchitectureNotSupported</c>.</exception>
    public GgufTree(PretrainedModel model, GgufMap? map = null)
    {
        _model = model;
        Config = model.HasBackbone ? model.Backbone.Config : model.Config;
        _prefix = model.BackbonePath.Length > 0 ? model.BackbonePath + "." : "";
        Map = map ?? Config.KnownFamily?.Gguf?.Of(Config) ?? throw new NotSupportedByPeftException("GgufArchitectureNotSupported", s_unknown.Contains(model.Config.ModelType)
            ? $"Models of the type '{model.Config.ModelType}' are not written as GGUF: llama.cpp doesn't run them."
            : $"Models of the type '{model.Config.ModelType}' are not written as GGUF.")
        {
            Target = model.Config.ModelType,
            RecommendedAction = $"Supported are: {string.Join(", ", ArchitectureRegistry.Families.Where(static family => family.Gguf is not null).Select(static family => family.ModelType))}. Export the model as safetensors and convert it with llama.cpp's own script.",
        };
    }

    /// <summary>How the family's files are written.</summary>
    public GgufMap Map { get; }

    /// <summary>The configuration of the language model.</summary>
    public ModelConfig Config { get; }

    /// <summary>How many blocks there are.</summary>
    public int Layers => (int)Config.RequiredInteger(Map.LayersKey);

    /// <summary>All parameters that have names.</summary>
    /// <exception cref="NotSupportedByPeftException"><c>GgufTensorNotSupported</c>: one has none.</exception>
    public IEnumerable<GgufWeight> Weights() => _model.NamedWeights().Where(static named => named.Parameter.IsOwner).Select(named => Find(named.Path, named.Parameter, named.Module));

    /// <summary>The tensors of a parameter.</summary>
    /// <exception cref="NotSupportedByPeftException"><c>GgufTensorNotSupported</c>.</exception>
    public GgufWeight Find(string path, Parameter parameter, Module module) => TryFind(path, parameter, module) ?? throw NoName(path);

    /// <summary>The tensors of a parameter, or null where files have no name for it.</summary>
    public GgufWeight? TryFind(string path, Parameter parameter, Module module)
    {
        if (_model.OutputEmbeddings is { } output && path.StartsWith(output + ".", StringComparison.Ordinal))
        {
            return Weight(new GgufName(output, "output") { HasAdapters = Map.HeadHasAdapters }, path[output.Length..], null, null);
        }

        if (!path.StartsWith(_prefix, StringComparison.Ordinal))
        {
            return null;
        }

        var own = path[_prefix.Length..];
        var inLayer = Map.Layers + ".";
        if (own.StartsWith(inLayer, StringComparison.Ordinal))
        {
            var end = own.IndexOf('.', inLayer.Length);
            var layer = int.Parse(own.AsSpan(inLayer.Length, end - inLayer.Length), CultureInfo.InvariantCulture);
            return First(Map.InLayer, own[(end + 1)..], layer);
        }

        return First(Map.Whole, own, null);

        GgufWeight? First(IReadOnlyList<GgufName> names, string part, int? layer) => names
            .Select(name => name.Match(part) is { } match ? Weight(name, match.End, match.Index, layer) : null)
            .FirstOrDefault(static found => found is not null);

        GgufWeight? Weight(GgufName name, string rest, int? row, int? layer) => !name.HasBias && rest == ".bias" ? null
            : new GgufWeight(path, parameter, name, [.. name.File.Select(file => (layer is null ? "" : FormattableString.Invariant($"blk.{layer}.")) + file + rest)], Config)
            {
                Layer = layer,
                Row = row,
                IsTransposed = module is Linear { IsTransposed: true } linear && ReferenceEquals(linear.Weight, parameter),
            };
    }

    private NotSupportedByPeftException NoName(string path) =>
        new("GgufTensorNotSupported", $"GGUF has no name for '{path}' in a model of the architecture '{Map.Architecture}'.")
        {
            Target = path,
            RecommendedAction = "Export the model as safetensors.",
        };
}
