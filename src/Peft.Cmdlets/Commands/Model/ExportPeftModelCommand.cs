using System.Management.Automation;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Cmdlets.Session;
using Peft.Models;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>Export-PeftModel: writes the model with its tokenizer as transformers reads it.</summary>
[Cmdlet(VerbsData.Export, "PeftModel", SupportsShouldProcess = true)]
[OutputType(typeof(PeftModel))]
public sealed class ExportPeftModelCommand : ModelCommand
{
    /// <summary>Folder to write to; it is made when it isn't there. A diffusion model is written as one file where the name ends in <c>.safetensors</c>.</summary>
    [Parameter(Mandatory = true, Position = 0)]
    [ValidateNotNullOrEmpty]
    public string Path { get; set; } = "";

    /// <summary>Type to write the weights in; <c>auto</c> keeps the model's.</summary>
    [Parameter]
    [ValidateSet("auto", "float32", "bfloat16", "float16")]
    [PSDefaultValue(Value = "auto", Help = "auto")]
    public string DataType { get; set; } = "auto";

    /// <summary>Maximum size of a file of weights, such as <c>5GB</c>; a larger model is written in several files with an index.</summary>
    [Parameter]
    [ValidateRange(1L, long.MaxValue)]
    [PSDefaultValue(Value = ModelLoader.DefaultShardBytes, Help = "5GB")]
    [ArgumentCompleter(typeof(ShardSizeCompleter))]
    public long MaxShardSize { get; set; } = ModelLoader.DefaultShardBytes;

    /// <summary>Writes over a model that is in the folder already.</summary>
    [Parameter]
    public SwitchParameter Force { get; set; }

    /// <summary>Puts the model out again.</summary>
    [Parameter]
    public SwitchParameter PassThru { get; set; }

    /// <summary>Looks before anything in the pipeline runs: a merge that is final isn't made for a model that can't be written.</summary>
    protected override void Begin()
    {
        if (Given(nameof(Path)))
        {
            RefuseUsed(PathResolution.Target(this, Path));
        }
    }

    private void RefuseUsed(string folder)
    {
        if (!Force && ModelFolder.Holding(folder) is { } held)
        {
            throw new PeftException("OutputExists", $"'{folder}' holds a model already, or a part of one: {held}.")
            {
                Target = folder,
                RecommendedAction = "Choose another folder, or write over it with -Force.",
            };
        }
    }

    /// <inheritdoc/>
    protected override void Process()
    {
        var folder = PathResolution.Target(this, Path);
        RefuseUsed(folder);
        if (!Force && Model.Base.IsSavedAsFile(folder) && File.Exists(folder))
        {
            throw new PeftException("OutputExists", $"The file '{folder}' is there already.") { Target = folder, RecommendedAction = "Choose another name, or write over it with -Force." };
        }

        if (ShouldProcess(folder, $"Write the model '{Model.Name}'"))
        {
            string[] leftOut = [.. Model.ActiveAdapters.Except(Model.MergedAdapters)];
            if (leftOut.Length > 0)
            {
                WriteWarning($"{string.Join(", ", leftOut)}: active, but not merged, so the model is written without. Merge-LoraAdapter puts adapters into the weights.");
            }

            Run(output =>
            {
                output.WriteVerbose($"Writing '{Model.Name}' to '{folder}'.");
                if (Model.NonFiniteWarning(output.Cancellation) is { } warning)
                {
                    output.WriteWarning(warning);
                }

                var progress = new ProgressLine(output, $"Exporting '{Model.Name}'");
                Model.Save(
                    folder,
                    EngineNames.DataType(DataType),
                    MaxShardSize,
                    (done, total) => progress.Show(done, total, FormattableString.Invariant($"{done / 1e6:N0} of {total / 1e6:N0} MB")),
                    output.Cancellation);
                progress.Complete();
            });
            if (PassThru)
            {
                WriteObject(Model);
            }
        }
    }
}
