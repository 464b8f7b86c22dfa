using System.Collections;
using System.Management.Automation;
using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Objectives;
using Peft.Training.Sweeps;
using Peft.Training.Policy;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Invoke-PolicyTraining: trains an adapter on the model's own answers, which a script block of the user's rates.</summary>
[Cmdlet(VerbsLifecycle.Invoke, "PolicyTraining", SupportsShouldProcess = true, DefaultParameterSetName = ModelSet)]
[Alias("Invoke-GrpoTraining")]
[OutputType(typeof(PeftAdapter), typeof(TrainingComparison))]
public sealed class InvokePolicyTrainingCommand : AdapterTrainingCommand
{
    /// <summary>What rates an answer, the higher the better: a script block that gets the prompt, the answer and the row of the data set, <c>{ param($prompt, $completion, $row) … }</c>, and puts out a number, <c>$true</c> or <c>$false</c>, or <c>$null</c> where it has nothing to say. It runs in your session with your functions; it may generate with other models, but not with the one that is trained. An adapter that was trained to score (<c>Invoke-PreferenceTraining -Objective reward</c>) does as well, loaded on a model of its own, or as its folder: then it is loaded beside the adapter that is trained, on the same base. Of several the weighted sum counts; a table gives them names.</summary>
    [Parameter(Mandatory = true, Position = 2, ParameterSetName = ModelSet)]
    [Parameter(Mandatory = true, Position = 1, ParameterSetName = AdapterSet)]
    [ValidateNotNullOrEmpty]
    [Alias("reward_funcs")]
    public object[] Reward { get; set; } = [];

    /// <summary>A weight for each reward, in their order. Default 1 each.</summary>
    [Parameter]
    [Alias("reward_weights")]
    [ValidateNotNullOrEmpty]
    public double[]? RewardWeight { get; set; }

    /// <summary>What is learnt: <c>grpo</c> (group relative policy optimisation) or <c>rloo</c> (REINFORCE leave-one-out).</summary>
    [Parameter]
    [ValidateSet("grpo", "rloo")]
    [PSDefaultValue(Value = "grpo", Help = "grpo")]
    public string Objective { get; set; } = "grpo";

    /// <summary>The loss of <c>grpo</c> by TRL's names, such as <c>dapo</c>, <c>grpo</c> or <c>dr_grpo</c>.</summary>
    [Parameter]
    [Alias("loss_type")]
    [ArgumentCompleter(typeof(PolicyLossCompleter))]
    [PSDefaultValue(Value = "dapo", Help = "dapo")]
    [ValidateNotNullOrEmpty]
    public string LossType { get; set; } = "dapo";

    /// <summary>How closely the model is held to the reference; 0 for not at all.</summary>
    [Parameter]
    [PSDefaultValue(Help = "0 for grpo, 0.05 for rloo")]
    [ValidateRange(0.0, double.MaxValue)]
    public double Beta { get; set; }

    /// <summary>Answers to each prompt, which are compared with one another. <c>-BatchSize</c> counts answers: it, times <c>-GradientAccumulation</c>, is a multiple of this.</summary>
    [Parameter]
    [Alias("num_generations")]
    [PSDefaultValue(Help = "8 for grpo, 2 for rloo")]
    [ValidateRange(2, int.MaxValue)]
    public int GroupSize { get; set; }

    /// <summary>Maximum length of an answer, in tokens.</summary>
    [Parameter]
    [Alias("max_completion_length")]
    [PSDefaultValue(Value = 256, Help = "256")]
    [ValidateRange(1, int.MaxValue)]
    public int MaxCompletionLength { get; set; } = 256;

    /// <summary>Divides the scores of tokens, when answers are drawn and in the loss.</summary>
    [Parameter]
    [PSDefaultValue(Value = 1, Help = "1")]
    public double Temperature { get; set; } = 1;

    /// <summary>Steps that are made with the same answers, from the second on held near the model that gave them.</summary>
    [Parameter]
    [Alias("num_iterations")]
    [PSDefaultValue(Value = 1, Help = "1")]
    [ValidateRange(1, int.MaxValue)]
    public int Iteration { get; set; } = 1;

    /// <summary>Other options under TRL's names, such as <c>@{ epsilon_high = 0.28; scale_rewards = 'none'; top_p = 0.95; mask_truncated_completions = $true }</c>.</summary>
    [Parameter]
    [ValidateNotNull]
    public Hashtable? ObjectiveOption { get; set; }

    /// <inheritdoc/>
    private protected override TrainingOptions ReadOptions()
    {
        var start = base.ReadOptions();
        var name = Given(nameof(Objective)) || Options is null or { Objective: not ("grpo" or "rloo") } ? Objective.ToLowerInvariant() : start.Objective;
        var own = name == start.Objective ? start.ObjectiveOptions?.DeepClone().AsObject() ?? [] : [];
        foreach (DictionaryEntry entry in ObjectiveOption ?? [])
        {
            own[entry.Key.ToString()!] = System.Text.Json.JsonSerializer.SerializeToNode(DatasetRow.Value(entry.Value));
        }

        Set(nameof(LossType), "loss_type", LossType);
        Set(nameof(Beta), "beta", Beta);
        Set(nameof(GroupSize), "num_generations", GroupSize);
        Set(nameof(MaxCompletionLength), "max_completion_length", MaxCompletionLength);
        Set(nameof(Temperature), "temperature", Temperature);
        Set(nameof(Iteration), "num_iterations", Iteration);
        if (RewardWeight is not null)
        {
            own["reward_weights"] = new JsonArray([.. RewardWeight.Select(static weight => JsonValue.Create(weight))]);
        }

        return (start with { Objective = name, ObjectiveOptions = own.Count == 0 ? null : own }).Validate();

        void Set<T>(string parameter, string option, T value)
        {
            if (Given(parameter))
            {
                own[option] = JsonValue.Create(value);
            }
        }
    }

    /// <inheritdoc/>
    private protected override IObjective MakeObjective(TrainingOptions options, WorkOutput output) => new PolicyObjective(options, ScriptReward.Read(Reward, output, TheModel, path => PathResolution.Target(this, path) is var folder && System.IO.Directory.Exists(folder) ? folder : null))
    {
        OnRated = rated =>
        {
            var best = rated.MaxBy(static answer => answer.Reward)!;
            output.WriteVerbose(FormattableString.Invariant($"step {best.Step}: {best.Reward:0.###} for '{best.Completion.Text}', given to '{best.Completion.Prompt.Text}'"));
        },
    };

    /// <inheritdoc/>
    private protected override ITrainingData Read(TrainingDataset dataset, PeftModel model, string? adapterName, TrainingOptions options, WorkOutput output)
    {
        var prompts = dataset.Prompts(model.RequiredTokenizer, options.MaxLength, output.Cancellation);
        prompts.Messages.ForEach(output.WriteWarning);
        return prompts;
    }
}
