using System.Collections;
using System.Management.Automation;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Cmdlets.Pipeline;
using Peft.Cmdlets.Arguments;
using Peft.Generation;

namespace Peft.Cmdlets.Commands.Text;

/// <summary>What Invoke-TextGeneration and Compare-ModelOutput share: how texts are continued.</summary>
public abstract class GenerationCommand : TextModelCommand, IRunsAsJob
{
    /// <summary>Works in the background of this process and puts out a job at once: Receive-Job, Wait-Job, Stop-Job and Remove-Job take it. Its output are the live objects; script blocks among the parameters see no variables of the caller's.</summary>
    [Parameter]
    public SwitchParameter AsJob { get; set; }

    /// <summary>Maximum number of tokens to add to each prompt.</summary>
    [Parameter]
    [Alias("max_new_tokens", "MaxNewToken")]
    [ValidateRange(1, int.MaxValue)]
    [PSDefaultValue(Help = "the model's own, else 128")]
    public int MaxNewTokens { get; set; }

    /// <summary>Draws tokens instead of taking the likeliest each time. On when a temperature, <c>-TopK</c>, <c>-TopP</c> or <c>-MinP</c> is given; else the model's own setting.</summary>
    [Parameter]
    [Alias("do_sample")]
    public SwitchParameter Sample { get; set; }

    /// <summary>Divides the scores before a token is drawn: below 1 stays closer to the likeliest, above 1 is more even.</summary>
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

    /// <summary>Whatever else transformers' <c>generate</c> takes, by its names, such as <c>@{ num_beams = 4; length_penalty = 2; early_stopping = $true; num_return_sequences = 2 }</c>. Parameters of this command go before.</summary>
    [Parameter]
    [ValidateNotNull]
    public Hashtable? Options { get; set; }

    private readonly Hashtable _named = [];

    /// <summary>Takes what transformers' generate takes and has no parameter here.</summary>
    internal override bool TakesArgument(string name, object? value)
    {
        if (!GenerationOptions.Names.Contains(name))
        {
            return false;
        }

        _named[name] = value;
        return true;
    }

    internal override IEnumerable<string> OtherArgumentNames => GenerationOptions.Names;

    /// <summary>The options that the parameters and the model's own defaults give.</summary>
    private protected GenerationOptions ReadOptions()
    {
        List<string> unsupported = [];
        var defaults = GenerationOptions.FromModel(TheModel, unsupported);
        if (unsupported.Count > 0)
        {
            WriteWarning($"The configuration of '{TheModel.Name}' asks for {string.Join(", ", unsupported)}, which is not supported; texts are generated without.");
        }

        foreach (var given in new[] { Options, _named }.OfType<Hashtable>())
        {
            defaults = defaults.With(new JsonObject(given.Cast<DictionaryEntry>().Select(static entry =>
                KeyValuePair.Create(entry.Key.ToString()!, JsonSerializer.SerializeToNode(DatasetRow.Value(entry.Value))))));
        }

        var draws = Given(nameof(Temperature)) || Given(nameof(TopK)) || Given(nameof(TopP)) || Given(nameof(MinP));
        var options = defaults with
        {
            MaxNewTokens = Given(nameof(MaxNewTokens)) ? MaxNewTokens : defaults.MaxNewTokens,
            Sample = Given(nameof(Sample)) ? Sample : draws || defaults.Sample,
            Temperature = Given(nameof(Temperature)) ? Temperature : defaults.Temperature,
            TopK = Given(nameof(TopK)) ? TopK : defaults.TopK,
            TopP = Given(nameof(TopP)) ? TopP : defaults.TopP,
            MinP = Given(nameof(MinP)) ? MinP : defaults.MinP,
            RepetitionPenalty = Given(nameof(RepetitionPenalty)) ? RepetitionPenalty : defaults.RepetitionPenalty,
            StopStrings = Given(nameof(StopString)) ? StopString : defaults.StopStrings,
            Seed = Seed ?? defaults.Seed,
        };
        options.Validate();
        return options;
    }
}
