using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Commands.Model;
using Peft.Cmdlets.Completion;

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
    public AdapterConfig Config { get; set; } = null!;

    /// <summary>Name of the new adapter; no other of the model may have it.</summary>
    [Parameter(Position = 1)]
    [ValidateNotNullOrEmpty]
    [PSDefaultValue(Value = "default", Help = "default")]
    public string AdapterName { get; set; } = "default";

    /// <summary>Repeats the starting values exactly; without it they are drawn anew each time.</summary>
    [Parameter]
    public ulong? Seed { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        if (ShouldProcess(Model.Name, $"Add the adapter '{AdapterName}'"))
        {
            WriteObject(Run(output =>
            {
                var adapter = Model.AddAdapter(Config, AdapterName, Seed);
                adapter.Report.Messages.ForEach(output.WriteWarning);
                adapter.Coverage.Matched.ForEach(row => output.WriteVerbose($"{row}: {row.Parameters} trainable parameters"));
                return adapter;
            }));
        }
    }
}
