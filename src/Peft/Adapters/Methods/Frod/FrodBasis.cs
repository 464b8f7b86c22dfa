using System.Globalization;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Frod;

/// <summary>The basis over their inputs that layers of one category share, and the places beside the diagonal at which they are trained.</summary>
internal sealed class FrodBasis
{
    private readonly IReadOnlyList<IAdaptable> _layers;
    private readonly long _size;

    /// <summary>Makes it, by shape alone: the vectors [in, in], row and column of each place [2, places], and the size twice.</summary>
    /// <param name="layers">The layers of the category, in the model's order.</param>
    /// <param name="rate">Share of the entries beside the diagonal.</param>
    /// <exception cref="PeftException"><c>AdapterShapeMismatch</c>: they don't read inputs of one size.</exception>
    public FrodBasis(IReadOnlyList<IAdaptable> layers, double rate)
    {
        _layers = layers;
        _size = layers[0].Inputs;
        if (layers.FirstOrDefault(layer => layer.Inputs != _size) is { } other)
        {
            throw new PeftException("AdapterShapeMismatch", $"FROD lets '{layers[0].Path}' and '{other.Path}' share a basis, for they have the same place in their blocks; but they have {_size} and {other.Inputs} inputs.")
            {
                Target = other.Path,
                RecommendedAction = "Target layers whose inputs are of one size under one name.",
            };
        }

        var beside = _size * (_size - 1);
        var count = Math.Min((long)(_size * _size * rate), beside);
        count = rate > 0 && beside > 0 ? Math.Max(1, count) : count;
        Vectors = new Parameter("frod_V", [_size, _size]);
        Places = new Parameter("frod_s_indices", [2, count], ScalarType.Int64);
        Size = new Parameter("frod_s_size", [2], ScalarType.Int64);
    }

    /// <summary>V, [in, in].</summary>
    public Parameter Vectors { get; }

    /// <summary>Rows and columns, [2, places].</summary>
    public Parameter Places { get; }

    /// <summary>The number of inputs twice, [2].</summary>
    public Parameter Size { get; }

    /// <summary>What PEFT calls the place of a layer in its block, by the last two parts of its path.</summary>
    public static string Category(string path)
    {
        var parts = path.Split('.');
        return parts.Length == 1 || IsNumber(parts[^2]) ? parts[^1]
            : parts is [.., "attention", "output", "dense"] ? "attention_output"
            : $"{parts[^2]}_{parts[^1]}";
    }

    /// <summary>Computes the basis of the layers' weights, and draws the places.</summary>
    /// <param name="regularisation">Keeps what is inverted regular.</param>
    /// <param name="generator">The adapter's, of whose numbers each category takes its own.</param>
    /// <param name="needed">Says whether a parameter wants a value.</param>
    public void Initialise(double regularisation, Generator generator, Predicate<Parameter> needed)
    {
        using var scope = NewDisposeScope();
        var device = _layers[0].Device;
        if (needed(Vectors))
        {
            Vectors.Assign(Basis([.. Weights()], regularisation).contiguous().to(device).MoveToOuterDisposeScope());
        }

        var order = Places.Shape[1] > 0 ? randperm(_size * (_size - 1), ScalarType.Int64, generator: generator).narrow(0, 0, Places.Shape[1]) : zeros([0], ScalarType.Int64);
        if (needed(Places))
        {
            // The entries beside the diagonal, row by row: each row has one less than there are columns.
            var row = order.div(Math.Max(1, _size - 1), RoundingMode.floor);
            var place = order - (row * (_size - 1));
            Places.Assign(stack([row, place + place.ge(row).to(ScalarType.Int64)], 0).to(device).MoveToOuterDisposeScope());
        }

        if (needed(Size))
        {
            Size.Assign(tensor(new[] { _size, _size }, device: device).MoveToOuterDisposeScope());
        }
    }

    /// <summary>A weight as what stands on the outputs' side of the basis: B with B Vᵀ = weight.</summary>
    /// <param name="weight">[out, in], float64 on the CPU.</param>
    public Tensor Coordinates(Tensor weight)
    {
        var vectors = Vectors.Data.cpu().to(ScalarType.Float64);
        try
        {
            return linalg.solve(vectors, weight.t()).t();
        }
        catch (System.Runtime.InteropServices.ExternalException)
        {
            return weight.mm(linalg.pinv(vectors, rtol: 1e-6).t());
        }
    }

    /// <summary>One weight for each index of a block, as PEFT collects them: the last where several have one index.</summary>
    private IEnumerable<Tensor> Weights()
    {
        SortedDictionary<long, IAdaptable> byIndex = [];
        foreach (var (place, layer) in _layers.Index())
        {
            byIndex[IndexOf(layer.Path, place)] = layer;
        }

        return byIndex.Values.Select(static layer => layer.ToMatrix(layer.Weight.Unpacked(ScalarType.Float32)).cpu());
    }

    private static Tensor Basis(Tensor[] weights, double regularisation)
    {
        var all = cat(weights, 0);
        if (all.size(0) < all.size(1))
        {
            return linalg.svd(all, fullMatrices: true).Vh.t();
        }

        var (q, r) = linalg.qr(all);
        var width = r.size(1);
        var ridge = eye(width) * regularisation;
        var sum = zeros([width, width]);
        long start = 0;
        foreach (var weight in weights)
        {
            var part = q.narrow(0, start, weight.size(0));
            sum = sum + linalg.inv(part.t().mm(part) + ridge);
            start += weight.size(0);
        }

        return r.t().mm(linalg.eigh(sum / weights.Length).Item2);
    }

    private static long IndexOf(string path, long place)
    {
        var parts = path.Split('.');
        var behind = Array.IndexOf(parts, "layers") + 1;
        return behind > 0 && behind < parts.Length && IsNumber(parts[behind]) ? Number(parts[behind])
            : Array.Find(parts, IsNumber) is { } first ? Number(first)
            : place;
    }

    private static bool IsNumber(string part) => part.Length > 0 && part.All(char.IsAsciiDigit);

    private static long Number(string part) => long.Parse(part, CultureInfo.InvariantCulture);
}
