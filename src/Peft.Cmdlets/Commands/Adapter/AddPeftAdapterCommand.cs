using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.Lora.DataStarts;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Commands.Model;
using Peft.Cmdlets.Commands.Training;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Training;
using Peft.Training.Data;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>Add-PeftAdapter: puts a new, untrained adapter on a model.</summary>
[Cmdlet(VerbsCommon.Add, "PeftAdapter", SupportsShouldProcess = true)]
[OutputType(typeof(PeftAdapter))]
public sealed class AddPeftAdapterCommand : ModelCommand
{
    /// <summary>What the adapter is made of, from New-LoraConfig; a table with its parameters, or the path of an <c>adapter_config.json</c>, does as well.</summary>
    [Parameter(Mandatory = true, Position = 0)]
    [ConfigArgument]
    [ArgumentCompleter(typeof(ConfigCompleter))]
    [Alias("peft_config")]
    public AdapterConfig Config { get; set; } = null!;

    /// <summary>Name of the new adapter; no other of the model may have it.</summary>
    [Parameter(Position = 1)]
    [ValidateNotNullOrEmpty]
    [PSDefaultValue(Value = "default", Help = "default")]
    [Alias("adapter_name")]
    public string AdapterName { get; set; } = "default";

    /// <summary>Repeats the starting values exactly; without it they are drawn anew each time.</summary>
    [Parameter]
    public ulong? Seed { get; set; }

    /// <summary>Data that decide the start of an adapter that asks for it (eva, corda, lora_ga): the first 256 rows are run through the model.</summary>
    [Parameter]
    [DatasetArgument]
    [ArgumentCompleter(typeof(DatasetCompleter))]
    public TrainingDataset? Dataset { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        if (ShouldProcess(Model.Name, $"Add the adapter '{AdapterName}'"))
        {
            WriteObject(Run(output =>
            {
                using var held = Model.Acquire("adding an adapter");
                using var start = Dataset is not null && DataStart.IsNeededBy(Config) ? StartOf((LoraConfig)Config, Dataset, output) : null;
                var adapter = Model.AddAdapter(start?.Config ?? Config, AdapterName, Seed);
                adapter.Report.Messages.ForEach(output.WriteWarning);
                adapter.Coverage.Matched.ForEach(row => output.WriteVerbose($"{row}: {row.Parameters} trainable parameters"));
                return adapter;
            }));
        }
    }

    private DataStart StartOf(LoraConfig config, TrainingDataset data, WorkOutput output)
    {
        var options = new TrainingOptions();
        return AdapterTrainingCommand.ComputeStart(config, Model, AdapterTrainingCommand.Tokenize(data, Model, options, output), options, output);
    }
}
