using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>The floating-point weights of a model in another type, with the originals kept so that every bit can come back.</summary>
internal sealed class WeightConversion
{
    private readonly PretrainedModel model;
    private readonly List<(Parameter Parameter, Tensor Original)> originals = [];

    private WeightConversion(PretrainedModel model)
    {
        this.model = model;
    }

    /// <summary>What is kept of the weights as they were.</summary>
    public IEnumerable<Tensor> Originals => originals.Select(static kept => kept.Original).OfType<Tensor>();

    /// <summary>Converts every weight that has another type. What fails on the way leaves every weight as it was.</summary>
    /// <param name="model">A model whose weights are loaded.</param>
    /// <param name="type">The type to compute in.</param>
    public static WeightConversion Apply(PretrainedModel model, ScalarType type)
    {
        using var noGradients = no_grad();
        var conversion = new WeightConversion(model);
        try
        {
            foreach (var parameter in model.NamedParameters().Select(static named => named.Parameter).Where(static parameter => parameter is { IsOwner: true, KeepsFloat32: false }).Distinct())
            {
                var current = parameter.Data;
                if (current.is_floating_point() && current.dtype != type)
                {
                    conversion.originals.Add((parameter, current.alias().DetachFromDisposeScope()));
                    parameter.Assign(current.to(type));
                }
            }

            model.Fuse();
        }
        catch
        {
            conversion.Restore();
            throw;
        }

        return conversion;
    }

    /// <summary>Gives the parameters their originals back.</summary>
    public void Restore()
    {
        using var noGradients = no_grad();
        foreach (var (parameter, original) in originals)
        {
            parameter.Assign(original);
        }

        originals.Clear();
        model.Fuse();
    }

    /// <summary>Frees the originals: the conversion is final.</summary>
    public void Discard()
    {
        originals.ForEach(static kept => kept.Original.Dispose());
        originals.Clear();
    }
}
