namespace Peft.Training.Objectives;

/// <summary>The objectives by name. A new one is a file, and a line here.</summary>
public static class ObjectiveRegistry
{
    private static readonly Dictionary<string, Func<TrainingOptions, IObjective>> s_factories = new(StringComparer.Ordinal)
    {
        ["causal_language_modelling"] = static options => new CausalLanguageModelling(options.LabelSmoothing, options.NeftuneNoiseAlpha),
    };

    /// <summary>Names of all objectives.</summary>
    public static IReadOnlyCollection<string> Names => s_factories.Keys;

    /// <summary>Makes an objective.</summary>
    /// <param name="name">Its name, such as <c>causal_language_modelling</c>.</param>
    /// <param name="options">Label smoothing and noise are taken from them.</param>
    /// <exception cref="NotSupportedByPeftException"><c>ObjectiveNotSupported</c>: nobody knows the name.</exception>
    public static IObjective Create(string name, TrainingOptions options) => s_factories.TryGetValue(name, out var factory)
        ? factory(options)
        : throw new NotSupportedByPeftException("ObjectiveNotSupported", $"There is no objective '{name}'. Choose one of {string.Join(", ", Names)}.")
        {
            Target = name,
            RecommendedAction = "Correct the name.",
        };
}
