using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>Floating-point weights of a model in another type, with the originals kept so that every bit can come back.</summary>
internal sealed class WeightConversion
{
    private readonly PretrainedModel model;
    private readonly List<(Parameter Parameter, Tensor? Original, Parameter? Owner)> originals = [];

    private WeightConversion(PretrainedModel model)
    {
        this.model = model;
    }

    /// <summary>What is kept of the weights as they were.</summary>
    public IEnumerable<Tensor> Originals => originals.Select(static kept => kept.Original).OfType<Tensor>();

    /// <summary>Converts every weight that has another type. What fails on the way leaves every weight as it was.</summary>
    /// <param name="model">A model whose weights are loaded.</param>
    /// <param name="type">The type to compute in.</param>
    public static WeightConversion Apply(PretrainedModel model, ScalarType type) => Apply(
        model, type, model.NamedParameters().Select(static named => named.Parameter).Where(static parameter => parameter.IsOwner).Distinct());

    /// <summary>
    /// Converts the weights of the linear layers alone, for mixed precision: norms, embeddings and what flows between the blocks keep their type.
    /// An output layer that shares the embedding's weights gets its own for the time.
    /// </summary>
    /// <param name="model">A model whose weights are loaded.</param>
    /// <param name="type">The type of the products.</param>
    public static WeightConversion ApplyToLinear(PretrainedModel model, ScalarType type) => Apply(
        model, type, model.Descendants().OfType<Linear>().SelectMany(static layer => layer.Parameters));

    private static WeightConversion Apply(PretrainedModel model, ScalarType type, IEnumerable<Parameter> parameters)
    {
        using var noGradients = no_grad();
        var conversion = new WeightConversion(model);
        try
        {
            foreach (var parameter in parameters.Where(parameter => parameter.Required.is_floating_point() && parameter.DataType != type).ToArray())
            {
                var current = parameter.Required;
                conversion.originals.Add((parameter, parameter.IsOwner ? current.alias().DetachFromDisposeScope() : null, parameter.TiedTo));
                parameter.Assign(current.to(type));
            }

            model.AfterLoad();
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
        foreach (var (parameter, original, owner) in originals)
        {
            if (owner is not null)
            {
                parameter.TieTo(owner);
            }
            else
            {
                parameter.Assign(original!);
            }
        }

        originals.Clear();
        model.AfterLoad();
    }

    /// <summary>Frees the originals: the conversion is final.</summary>
    public void Discard()
    {
        originals.ForEach(static kept => kept.Original?.Dispose());
        originals.Clear();
    }
}
