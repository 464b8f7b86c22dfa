using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Conversion;
using Peft.Adapters.Files;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>Export-PeftAdapter: writes adapters as PEFT reads them.</summary>
[Cmdlet(VerbsData.Export, "PeftAdapter", SupportsShouldProcess = true, DefaultParameterSetName = AdapterSet)]
[OutputType(typeof(PeftAdapter))]
public sealed class ExportPeftAdapterCommand : AdapterCommand
{
    private readonly List<PeftAdapter> _adapters = [];

    /// <summary>Folder to write to. A single adapter's files go into it, those of several into a subfolder for each.</summary>
    [Parameter(Mandatory = true, Position = 0)]
    [ValidateNotNullOrEmpty]
    public string Path { get; set; } = "";

    /// <summary>Names of the model's adapters to write; wildcards are allowed.</summary>
    [Parameter(ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterNameCompleter))]
    [PSDefaultValue(Value = "*", Help = "*")]
    [ValidateNotNullOrEmpty]
    public string[] AdapterName { get; set; } = ["*"];

    /// <summary>Writes LoRA for the base as it was loaded: of an adapter whose start took a part out of the base (PiSSA, OLoRA) at twice the rank, so that other programs need not make that start again; of another method as ConvertTo-LoraAdapter does.</summary>
    [Parameter]
    public SwitchParameter AsLora { get; set; }

    /// <summary>Whose form the files have: PEFT's, which most programs read, or MLX's (<c>adapters.safetensors</c> for mlx-lm on Apple's machines; LoRA and DoRA alone).</summary>
    [Parameter]
    [ValidateSet("Peft", "Mlx")]
    [PSDefaultValue(Value = "Peft", Help = "Peft")]
    public string Format { get; set; } = "Peft";

    /// <summary>Writes over an adapter that is in the folder already.</summary>
    [Parameter]
    public SwitchParameter Force { get; set; }

    /// <summary>Puts the adapters out again.</summary>
    [Parameter]
    public SwitchParameter PassThru { get; set; }

    /// <inheritdoc/>
    protected override void Process() => _adapters.AddRange(Chosen(AdapterName).Except(_adapters));

    /// <inheritdoc/>
    protected override void End()
    {
        var root = PathResolution.Target(this, Path);
        HashSet<string> written = new(StringComparer.OrdinalIgnoreCase);
        Each(_adapters, adapter =>
        {
            if (!written.Add(adapter.Name))
            {
                throw new PeftException("OutputExists", $"Another of the adapters is named '{adapter.Name}' too and has been written to '{System.IO.Path.Combine(root, adapter.Name)}'.")
                {
                    Target = adapter,
                    RecommendedAction = "Export the adapters of each model into a folder of its own.",
                };
            }

            Export(adapter, _adapters.Count == 1 ? root : System.IO.Path.Combine(root, adapter.Name));
        });
    }

    private void Export(PeftAdapter adapter, string folder)
    {
        if (!Force && File.Exists(System.IO.Path.Combine(folder, AdapterConfig.FileName)))
        {
            throw new PeftException("OutputExists", $"'{folder}' holds an adapter already.")
            {
                Target = folder,
                RecommendedAction = "Choose another folder, or write over it with -Force.",
            };
        }

        if (ShouldProcess(folder, $"Write the adapter '{adapter.Name}'"))
        {
            if (Format.Equals("Mlx", StringComparison.OrdinalIgnoreCase))
            {
                Run(_ => MlxAdapter.Save(adapter.Model, adapter.Name, folder));
            }
            else if (AsLora)
            {
                WriteLine($"{adapter.Name}: {Run(output => AdapterConversion.SaveAsLora(adapter.Model, adapter.Name, folder, new ConversionOptions { Cancellation = output.Cancellation }))}");
            }
            else
            {
                Run(_ => adapter.Model.SaveAdapter(adapter.Name, folder));
            }

            if (PassThru)
            {
                WriteObject(adapter);
            }
        }
    }
}
