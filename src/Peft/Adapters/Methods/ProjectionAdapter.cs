using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods;

/// <summary>An adapter whose layers share two random projections that stay as they are: VeRA's.</summary>
/// <param name="name">The adapter's name.</param>
/// <param name="config">The configuration, whose rank B has for columns.</param>
/// <param name="rows">Rows of A.</param>
public abstract class ProjectionAdapter(string name, ProjectionConfig config, int rows) : LayerwiseAdapter(name, config)
{
    /// <summary>[rows, largest input]; a layer reads its first columns.</summary>
    internal Parameter A { get; private set; } = null!;

    /// <summary>[largest output, columns]; a layer reads its first rows.</summary>
    internal Parameter B { get; private set; } = null!;

    /// <inheritdoc/>
    public override void Initialise(Generator generator, Predicate<Parameter> needed)
    {
        ArgumentNullException.ThrowIfNull(needed);
        if (needed(A) || needed(B))
        {
            // PEFT draws both from one generator on the CPU, A first.
            using var seeded = new Generator((ulong)config.ProjectionSeed);
            A.Assign(RandomTensors.Uniform(A.Shape, Math.Sqrt(6.0 / A.Shape[1]), seeded, Device));
            B.Assign(RandomTensors.Uniform(B.Shape, Math.Sqrt(6.0 / B.Shape[1]), seeded, Device));
        }

        base.Initialise(generator, needed);
    }

    /// <inheritdoc/>
    protected override void DeclareShared(IReadOnlyList<IAdaptable> targets)
    {
        var prefix = Config.PeftType.ToLowerInvariant();
        A = new Parameter($"{prefix}_A", [rows, targets.Max(static layer => layer.Inputs)]);
        B = new Parameter($"{prefix}_B", [targets.Max(static layer => layer.Outputs), config.Rank]);
        var role = config.SaveProjection ? ParameterRole.Frozen : ParameterRole.Derived;
        Shared.Add(new AdapterParameter($"base_model.{A.Name}", A, role));
        Shared.Add(new AdapterParameter($"base_model.{B.Name}", B, role));
    }
}
