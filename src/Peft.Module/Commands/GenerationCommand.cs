using System.Management.Automation;
using Peft.Adapters;
using Peft.Generation;
using Peft.Models;
using Peft.Module.Completion;

namespace Peft.Module.Commands;

/// <summary>What the cmdlets share that run a model on text: the model, or one of its adapters, comes down the pipeline.</summary>
public abstract class TextModelCommand : PeftCmdlet
{
    /// <summary>Name of the parameter set that takes a model.</summary>
    protected const string ModelSet = "Model";

    /// <summary>Name of the parameter set that takes an adapter.</summary>
    protected const string AdapterSet = "Adapter";

    /// <summary>The model, with the adapters that are active on it; a loaded model's name does as well.</summary>
    [Parameter(Mandatory = true, ParameterSetName = ModelSet, ValueFromPipeline = true)]
    [ModelArgument]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    public PeftModel Model { get; set; } = null!;

    /// <summary>An adapter that acts alone on its model for this command; what is active on the model stays as it is.</summary>
    [Parameter(Mandatory = true, ParameterSetName = AdapterSet, ValueFromPipeline = true)]
    [AdapterArgument]
    public PeftAdapter Adapter { get; set; } = null!;

    /// <summary>The model that is meant.</summary>
    private protected PeftModel TheModel => ParameterSetName == AdapterSet ? Adapter.Model : Model;

    /// <summary>Which adapters act, where it isn't those that are active; <c>base</c> alone stands for none.</summary>
    private protected Selection? SelectionOf(IReadOnlyList<string>? names) => names switch
    {
        null => ParameterSetName == AdapterSet ? Adapter.Model.Select(Adapter.Name) : null,
        [OutputComparison.BaseName] when Model.Adapters.All(static adapter => adapter.Name != OutputComparison.BaseName) => Model.Select(),
        _ => Model.Select(names),
    };
}

/// <summary>What Invoke-TextGeneration and Compare-ModelOutput share: how texts are continued.</summary>
public abstract class GenerationCommand : TextModelCommand
{
    /// <summary>Most tokens to add to each prompt.</summary>
    [Parameter]
    [Alias("max_new_tokens", "MaxNewToken")]
    [ValidateRange(1, int.MaxValue)]
    [PSDefaultValue(Value = 128, Help = "128")]
    public int MaxNewTokens { get; set; } = 128;

    /// <summary>Draws tokens instead of taking the likeliest each time. On when a temperature, <c>-TopK</c>, <c>-TopP</c> or <c>-MinP</c> is given; else the model's own setting.</summary>
    [Parameter]
    [Alias("do_sample")]
    public SwitchParameter Sample { get; set; }

    /// <summary>Divides the scores before a token is drawn: below 1 bolder, above 1 more even.</summary>
    [Parameter]
    [PSDefaultValue(Help = "the model's own, else 1")]
    public double Temperature { get; set; }

    /// <summary>Draws among this many likeliest tokens; 0 for all.</summary>
    [Parameter]
    [Alias("top_k")]
    [ValidateRange(0, int.MaxValue)]
    [PSDefaultValue(Help = "the model's own, else 0")]
    public int TopK { get; set; }

    /// <summary>Draws among the likeliest tokens that together reach this probability.</summary>
    [Parameter]
    [Alias("top_p")]
    [PSDefaultValue(Help = "the model's own, else 1")]
    public double TopP { get; set; }

    /// <summary>Draws among tokens at least this fraction as likely as the likeliest.</summary>
    [Parameter]
    [Alias("min_p")]
    [PSDefaultValue(Help = "the model's own, else 0")]
    public double MinP { get; set; }

    /// <summary>Makes tokens that have occurred less likely when above 1.</summary>
    [Parameter]
    [Alias("repetition_penalty")]
    [PSDefaultValue(Help = "the model's own, else 1")]
    public double RepetitionPenalty { get; set; }

    /// <summary>Texts that end a continuation; they are cut off it.</summary>
    [Parameter]
    [Alias("stop_strings", "Stop")]
    [ValidateNotNullOrEmpty]
    public string[] StopString { get; set; } = [];

    /// <summary>Repeats a draw exactly; without it each run draws anew.</summary>
    [Parameter]
    public ulong? Seed { get; set; }

    /// <summary>The options that the parameters and the model's own defaults give.</summary>
    private protected GenerationOptions Options()
    {
        var defaults = GenerationOptions.FromDefaults(TheModel.GenerationDefaults);
        var draws = Given(nameof(Temperature)) || Given(nameof(TopK)) || Given(nameof(TopP)) || Given(nameof(MinP));
        var options = defaults with
        {
            MaxNewTokens = MaxNewTokens,
            Sample = Given(nameof(Sample)) ? Sample : draws || defaults.Sample,
            Temperature = Given(nameof(Temperature)) ? Temperature : defaults.Temperature,
            TopK = Given(nameof(TopK)) ? TopK : defaults.TopK,
            TopP = Given(nameof(TopP)) ? TopP : defaults.TopP,
            MinP = Given(nameof(MinP)) ? MinP : defaults.MinP,
            RepetitionPenalty = Given(nameof(RepetitionPenalty)) ? RepetitionPenalty : defaults.RepetitionPenalty,
            StopStrings = StopString,
            Seed = Seed,
        };
        options.Validate();
        return options;
    }

    private bool Given(string parameter) => MyInvocation.BoundParameters.ContainsKey(parameter);
}
