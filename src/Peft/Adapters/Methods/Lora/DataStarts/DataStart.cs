using Peft.Adapters.Model;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora.DataStarts;

/// <summary>Factors that data decided, by layer, and the configuration that goes with them. Dispose it once the adapter is made.</summary>
public sealed class DataStart : IDisposable
{
    private readonly Dictionary<string, (Tensor A, Tensor? B)> _factors = new(StringComparer.Ordinal);

    private DataStart(LoraConfig config) => Config = Asked = config;

    /// <summary>The configuration that was asked for.</summary>
    internal LoraConfig Asked { get; }

    /// <summary>The configuration to make the adapter of: ranks, strengths and targets are those that the data decided.</summary>
    public LoraConfig Config { get; private set; }

    /// <summary>Whether a configuration's start needs data.</summary>
    public static bool IsNeededBy(AdapterConfig? config) => config is LoraConfig { Start: null } lora && LoraInitialisation.Of(lora.Initialisation).NeedsData;

    /// <summary>Computes a start.</summary>
    /// <param name="model">The model, held by the caller; nothing of it changes.</param>
    /// <param name="config">The configuration, whose start needs data.</param>
    /// <param name="data">The data.</param>
    /// <param name="onProgress">Sees what is done, of how much, and what that is.</param>
    /// <param name="cancellation">Looked at between batches and layers.</param>
    /// <exception cref="PeftException">What is wrong with the configuration; <c>StartDataInvalid</c>: the data is too little, or gives numbers that are none.</exception>
    public static DataStart Compute(PeftModel model, LoraConfig config, IStartData data, Action<int, int, string>? onProgress = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        config.Validate();
        using var noGradients = no_grad();
        using var probe = (LayerwiseAdapter)config.CreateAdapter("start");
        probe.Declare(model.Base, []);
        IAdaptable[] layers = [.. probe.Layers.Select(static layer => layer.Layer).Where(static layer => layer is Linear)];
        if (layers.Length == 0 || data.Batches == 0)
        {
            throw new PeftException("StartDataInvalid", $"The start '{config.Initialisation}' needs data and linear layers: there are {data.Batches} batches and {layers.Length} layers.")
            {
                RecommendedAction = "Give rows of data, and target linear layers.",
            };
        }

        var run = new StartRun(config, layers, data, onProgress ?? (static (_, _, _) => { }), cancellation);
        var start = new DataStart(config);
        try
        {
            using var scope = NewDisposeScope();
            (start.Config, var factors) = config.Initialisation switch
            {
                "eva" => new EvaStart(run).Compute(model.Base),
                "corda" => (config, CordaStart.Compute(run)),
                _ => (config, LoraGaStart.Compute(run)),
            };
            foreach (var (path, (a, b)) in factors)
            {
                start._factors[path] = (a.clone().DetachFromDisposeScope(), b?.clone().DetachFromDisposeScope());
            }

            start.Config = start.Config with { Start = start };
            return start;
        }
        catch
        {
            start.Dispose();
            throw;
        }
    }

    /// <summary>The factors of a layer, B null for zeros; null where the data decide nothing of it. The caller owns them.</summary>
    internal (Tensor A, Tensor? B)? For(string path) => _factors.TryGetValue(path, out var factors) ? (factors.A.clone(), factors.B?.clone()) : null;

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var (a, b) in _factors.Values)
        {
            a.Dispose();
            b?.Dispose();
        }

        _factors.Clear();
    }
}

/// <summary>What computing a start needs.</summary>
/// <param name="Config">The configuration.</param>
/// <param name="Layers">The linear layers that it adapts.</param>
/// <param name="Data">The data.</param>
/// <param name="Report">Told what is done, of how much, and what that is.</param>
/// <param name="Cancellation">Looked at between batches and layers.</param>
internal sealed record StartRun(LoraConfig Config, IReadOnlyList<IAdaptable> Layers, IStartData Data, Action<int, int, string> Report, CancellationToken Cancellation)
{
    /// <summary>Singular vectors and values: all of a small matrix, the leading ones of a large one by subspace iteration.</summary>
    /// <param name="matrix">Any matrix.</param>
    /// <param name="count">How many are asked for.</param>
    public static (Tensor U, Tensor S, Tensor Vh) Leading(Tensor matrix, long count)
    {
        const int Iterations = 4;
        const long Small = 512;
        const ulong Seed = 42;
        var smaller = Math.Min(matrix.size(0), matrix.size(1));
        if (smaller <= Math.Max(Small, 2 * count))
        {
            return linalg.svd(matrix, fullMatrices: false);
        }

        using var generator = new Generator(Seed);
        return SingularVectors.Leading(matrix, 2 * count, Iterations, generator);
    }
}
