using System.Text.Json.Nodes;

namespace Peft.Training.Checkpoints;

/// <summary>What must be the same for a training to go on from a checkpoint.</summary>
/// <param name="Options">The options as JSON.</param>
/// <param name="Adapter">The adapter's configuration as JSON.</param>
/// <param name="Data">Fingerprint of the training data.</param>
/// <param name="EvaluationData">Fingerprint of the evaluation data, or null.</param>
/// <param name="Objective">Name of the objective.</param>
/// <param name="Model">Fingerprint of the base model, from <see cref="ModelFingerprint"/>.</param>
internal sealed record TrainingIdentity(JsonObject Options, JsonObject Adapter, string Data, string? EvaluationData, string Objective, string Model)
{
    /// <summary>Options that say what is shown and kept, not what was computed; and how long it goes on, which is for those to say who let it.</summary>
    private static readonly string[] s_free =
    [
        "num_train_epochs", "max_steps", "logging_steps", "save_steps", "save_total_limit", "per_device_eval_batch_size", "base_model_name_or_path", "inference_mode", "revision", "compute",
        "save_strategy", "save_seconds", "early_stopping_patience", "early_stopping_threshold", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
    ];

    /// <summary>That of a training, in a form that compares equal to what was read from a file.</summary>
    public static TrainingIdentity Of(TrainingRequest request, TrainedPart part, string objective) => new(
        Parsed(request.Options.ToJson()), Parsed(part.Config.ToJsonString()), request.Data.Fingerprint, request.EvaluationData?.Fingerprint, objective,
        ModelFingerprint.Of(request.Model.Base));

    /// <summary>As it stands in a checkpoint.</summary>
    public JsonObject ToJson() => new()
    {
        ["options"] = Options.DeepClone(),
        ["adapter"] = Adapter.DeepClone(),
        ["data"] = Data,
        ["evaluation_data"] = EvaluationData,
        ["objective"] = Objective,
        ["model"] = Model,
    };

    /// <summary>Refuses a checkpoint that something else was trained into.</summary>
    /// <param name="stored">What <see cref="ToJson"/> gave when it was written.</param>
    /// <param name="folder">The checkpoint.</param>
    /// <exception cref="PeftException"><c>ResumeModelChanged</c>, <c>ResumeDataChanged</c> or <c>ResumeOptionsChanged</c>, naming what changed (the adapter's configuration counts as options).</exception>
    public void RefuseOther(JsonObject stored, string folder)
    {
        if ((string?)stored["model"] != Model)
        {
            throw new PeftException("ResumeModelChanged", $"The checkpoint '{folder}' was made with another base model, or with this one in another precision.")
            {
                Target = folder,
                RecommendedAction = "Import the model that the training began with, in the same type, or start anew without resuming.",
            };
        }

        if ((string?)stored["data"] != Data || (string?)stored["evaluation_data"] != EvaluationData)
        {
            var which = (string?)stored["data"] != Data ? "training" : "evaluation";
            throw new PeftException("ResumeDataChanged", $"The checkpoint '{folder}' was made with other {which} data.")
            {
                Target = folder,
                RecommendedAction = "Give the same data again, or start anew without resuming.",
            };
        }

        var changed = Changes(Options, stored["options"] as JsonObject ?? []).Concat(Changes(Adapter, stored["adapter"] as JsonObject ?? [])).ToList();
        if ((string?)stored["objective"] is var objective && objective != Objective)
        {
            changed.Add($"objective (was {objective}, is {Objective})");
        }

        if (changed.Count > 0)
        {
            throw new PeftException("ResumeOptionsChanged", $"The checkpoint '{folder}' was made with other options: {string.Join("; ", changed)}.")
            {
                Target = folder,
                RecommendedAction = "Give the same options again, or start anew without resuming.",
            };
        }
    }

    /// <summary>What a stored identity says of the training's length where that differs; null where it is the same.</summary>
    /// <param name="stored">As <see cref="RefuseOther"/> takes it.</param>
    public string? OtherLength(JsonObject stored)
    {
        string[] length = ["num_train_epochs", "max_steps"];
        var before = stored["options"] as JsonObject ?? [];
        var changed = length.Where(name => !JsonNode.DeepEquals(Options[name], before[name]))
            .Select(name => $"{TrainingOptions.SideBySide(name)} was {before[name]?.ToJsonString() ?? "absent"}, is {Options[name]?.ToJsonString() ?? "absent"}").ToList();
        return changed.Count == 0 ? null : string.Join("; ", changed);
    }

    private static JsonObject Parsed(string json) => JsonNode.Parse(json)!.AsObject();

    private static IEnumerable<string> Changes(JsonObject now, JsonObject before) =>
        from name in now.Select(static entry => entry.Key).Union(before.Select(static entry => entry.Key), StringComparer.Ordinal)
        where !s_free.Contains(name, StringComparer.Ordinal) && !JsonNode.DeepEquals(now[name], before[name])
        select $"{TrainingOptions.SideBySide(name)} was {before[name]?.ToJsonString() ?? "absent"}, is {now[name]?.ToJsonString() ?? "absent"}";
}
