using Peft.Adapters.Model;
using static TorchSharp.torch;

namespace Peft.Adapters.Combination;

/// <summary>
/// The weighted mean of adapters that were trained apart from one start, value by value, as a federated round makes it of what several sites have learnt, weighted by their
/// numbers of examples (McMahan et al. 2017). It works for any method, and isn't the mean of what they do where that is a product of what they learnt.
/// </summary>
internal static class AdapterAveraging
{
    /// <summary>Adds the mean to the model.</summary>
    /// <param name="model">The model, held by the caller.</param>
    /// <param name="parts">Adapters of one configuration; weights are divided by their sum.</param>
    /// <param name="name">The new adapter's name.</param>
    /// <exception cref="PeftException"><c>CombinationInvalid</c>.</exception>
    public static PeftAdapter Average(PeftModel model, AdapterPart[] parts, string name)
    {
        var total = parts.Sum(static part => part.Weight);
        if (!(total > 0) || Array.Exists(parts, static part => part.Weight < 0))
        {
            throw Invalid("Weights of a mean are numbers of examples: none is negative, and their sum is more than 0");
        }

        var values = parts.Select(static part => part.Adapter.Parameters().DistinctBy(static parameter => parameter.FullKey).ToDictionary(static parameter => parameter.FullKey, StringComparer.Ordinal)).ToArray();
        var made = model.AddAdapter(parts[0].Adapter.Config, name, seed: 0);
        try
        {
            using var noGradients = no_grad();
            using var scope = NewDisposeScope();
            foreach (var target in made.Adapter.Parameters().DistinctBy(static parameter => parameter.Parameter))
            {
                var own = values.Select(of => of.TryGetValue(target.FullKey, out var found) && found.Parameter.Shape.SequenceEqual(target.Parameter.Shape) ? found.Parameter.Data
                    : throw Invalid($"The adapters aren't alike: one has no {target.FullKey} of [{string.Join(", ", target.Parameter.Shape)}]")).ToArray();
                if (target.Role != ParameterRole.Trained && Array.Exists(own, other => !other.eq(own[0]).all().item<bool>()))
                {
                    throw Invalid($"The adapters didn't begin alike: {target.FullKey}, which isn't trained, differs");
                }

                target.Parameter.Assign(target.Role == ParameterRole.Trained
                    ? own.Zip(parts, (value, part) => value.to(ScalarType.Float32) * (part.Weight / total)).Aggregate(static (sum, value) => sum + value).to(target.Parameter.DataType)
                    : own[0].clone());
            }

            made.Adapter.OnLoaded();
        }
        catch
        {
            model.RemoveAdapter(name);
            throw;
        }

        return made;
    }

    private static PeftException Invalid(string what) => new("CombinationInvalid", $"{what}.")
    {
        RecommendedAction = "Average adapters that were trained from one start with one configuration, such as the same seed or the last round's mean; join others with -Type Svd.",
    };
}
