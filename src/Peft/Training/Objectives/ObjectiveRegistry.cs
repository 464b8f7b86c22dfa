using Peft.Diffusion;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Training.Objectives.Preference;

namespace Peft.Training.Objectives;

/// <summary>The objectives by name. A new one is a file, and a line here.</summary>
public static class ObjectiveRegistry
{
    private static readonly Dictionary<string, Func<TrainingOptions, NamedOptions, IObjective>> s_factories = new(StringComparer.Ordinal)
    {
        ["causal_language_modelling"] = static (options, _) => new CausalLanguageModelling(options.LabelSmoothing, options.NeftuneNoiseAlpha),
        ["sequence_to_sequence"] = static (options, own) => new SequenceToSequence(options.LabelSmoothing, own),
        ["sequence_classification"] = static (_, own) => new SequenceClassification(own),
        ["token_classification"] = static (_, own) => new TokenClassification(own),
        ["question_answering"] = static (_, _) => new QuestionAnswering(),
        ["masked_language_modelling"] = static (_, own) => new MaskedLanguageModelling(own),
        ["denoising"] = static (_, own) => new Denoising(own),
        ["dft"] = static (_, _) => new DynamicFineTuning(),
        ["distillation"] = static (_, own) => new Distillation(own),
        ["multiple_negatives_ranking"] = static (_, own) => new MultipleNegativesRanking(own),
        ["cosine_similarity"] = static (_, own) => new CosineSimilarity(own),
        ["dpo"] = static (_, own) => new DirectPreference(own),
        ["cpo"] = static (_, own) => new ContrastivePreference(own),
        ["orpo"] = static (_, own) => new OddsRatio(own),
        ["reward"] = static (_, own) => new RewardModelling(own),
        ["grpo"] = static (_, own) => new GroupRelativePolicy(own),
        ["rloo"] = static (_, own) => new LeaveOneOut(own),
        ["kto"] = static (_, own) => new KahnemanTversky(own),
    };

    /// <summary>Names of all objectives.</summary>
    public static IReadOnlyCollection<string> Names => s_factories.Keys;

    /// <summary>A name as it is written here, whatever the case of the one that was given; one that nobody knows comes back as it is.</summary>
    internal static string Canonical(string name) => Names.FirstOrDefault(known => known.Equals(name, StringComparison.OrdinalIgnoreCase)) ?? name;

    /// <summary>Names of the losses among which an objective chooses (<c>loss_type</c>), the default first.</summary>
    /// <param name="objective">Its name; null for those of all objectives.</param>
    public static IReadOnlyList<string> Losses(string? objective) => objective switch
    {
        "dpo" => [.. PairLosses.ByName.Keys],
        "grpo" => GroupRelativePolicy.Losses,
        "kto" => KahnemanTversky.Losses,
        "cpo" => ContrastivePreference.Losses,
        null => [.. Names.SelectMany(Losses).Distinct()],
        _ => [],
    };

    /// <summary>Name of what a model with such a head usually learns.</summary>
    /// <param name="model">The model.</param>
    public static string DefaultFor(PretrainedModel model) => OfHead(model).Objective;

    /// <summary>PEFT's task type of a model with such a head; null where PEFT has none.</summary>
    /// <param name="model">The model.</param>
    public static string? TaskOf(PretrainedModel model) => OfHead(model).Task;

    private static (string Objective, string? Task) OfHead(PretrainedModel model) => model switch
    {
        ILatentDiffusion => ("denoising", null),
        SequenceToSequenceModel => ("sequence_to_sequence", "SEQ_2_SEQ_LM"),
        ImageClassificationModel => ("sequence_classification", null),
        SequenceClassificationModel => ("sequence_classification", "SEQ_CLS"),
        TokenClassificationModel => ("token_classification", "TOKEN_CLS"),
        QuestionAnsweringModel => ("question_answering", "QUESTION_ANS"),
        MaskedModel => ("masked_language_modelling", null),
        FeatureModel => ("multiple_negatives_ranking", "FEATURE_EXTRACTION"),
        _ => ("causal_language_modelling", "CAUSAL_LM"),
    };

    /// <summary>Makes the objective that options name.</summary>
    /// <param name="options">Name, the objective's own options, label smoothing and noise.</param>
    /// <exception cref="NotSupportedByPeftException"><c>ObjectiveNotSupported</c>: nobody knows the name.</exception>
    /// <exception cref="PeftException"><c>TrainingOptionUnknown</c> or <c>TrainingOptionInvalid</c>: an option doesn't fit the objective.</exception>
    public static IObjective Create(TrainingOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        if (!s_factories.TryGetValue(options.Objective, out var factory))
        {
            throw new NotSupportedByPeftException("ObjectiveNotSupported", $"There is no objective '{options.Objective}'. Choose one of {string.Join(", ", Names)}.{Spelling.DidYouMean(options.Objective, Names)}")
            {
                Target = options.Objective,
                RecommendedAction = "Correct the name.",
            };
        }

        var own = new NamedOptions($"objective '{options.Objective}'", options.ObjectiveOptions);
        var objective = factory(options, own);
        own.RefuseOthers();
        return objective;
    }
}
