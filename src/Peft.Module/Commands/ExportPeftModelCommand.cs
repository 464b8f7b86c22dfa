using System.Management.Automation;
using Peft.Adapters;

namespace Peft.Module.Commands;

/// <summary>Export-PeftModel: writes the model with its tokenizer as transformers reads it.</summary>
[Cmdlet(VerbsData.Export, "PeftModel", SupportsShouldProcess = true)]
[OutputType(typeof(PeftModel))]
public sealed class ExportPeftModelCommand : ModelCommand
{
    /// <summary>Folder to write to; it is made when it isn't there.</summary>
    [Parameter(Mandatory = true, Position = 0)]
    [ValidateNotNullOrEmpty]
    public string Path { get; set; } = "";

    /// <summary>Type to write the weights in; <c>auto</c> keeps the model's.</summary>
    [Parameter]
    [ValidateSet("auto", "float32", "bfloat16", "float16")]
    [PSDefaultValue(Value = "auto", Help = "auto")]
    public string DataType { get; set; } = "auto";

    /// <summary>Most bytes in one weights file, such as <c>5GB</c>; a larger model is written in several files with an index.</summary>
    [Parameter]
    [ValidateRange(1L, long.MaxValue)]
    [PSDefaultValue(Value = 5L << 30, Help = "5GB")]
    public long MaxShardSize { get; set; } = 5L << 30;

    /// <summary>Writes over a model that is in the folder already.</summary>
    [Parameter]
    public SwitchParameter Force { get; set; }

    /// <summary>Puts the model out again.</summary>
    [Parameter]
    public SwitchParameter PassThru { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        var folder = PathResolution.Target(this, Path);
        if (!Force && File.Exists(System.IO.Path.Combine(folder, "config.json")))
        {
            throw new PeftException("OutputExists", $"'{folder}' holds a model already.")
            {
                Target = folder,
                RecommendedAction = "Choose another folder, or write over it with -Force.",
            };
        }

        if (ShouldProcess(folder, $"Write the model '{Model.Name}'"))
        {
            Run(output =>
            {
                output.WriteVerbose($"Writing '{Model.Name}' to '{folder}'.");
                Model.Save(folder, EngineNames.DataType(DataType), MaxShardSize);
            });
            if (PassThru)
            {
                WriteObject(Model);
            }
        }
    }
}
