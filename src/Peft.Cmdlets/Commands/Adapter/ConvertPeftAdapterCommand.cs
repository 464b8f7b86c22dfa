using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Cmdlets.Session;
using Peft.Diffusion.Adapters;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>Convert-PeftAdapter: writes an adapter file of a diffusion model in another format.</summary>
[Cmdlet(VerbsData.Convert, "PeftAdapter", SupportsShouldProcess = true)]
[OutputType(typeof(AdapterFormatReport))]
public sealed class ConvertPeftAdapterCommand : PeftCmdlet
{
    /// <summary>The adapter's file (<c>.safetensors</c>, <c>.pt</c>, <c>.bin</c>), of kohya's scripts, the web UI, LyCORIS or diffusers; or a folder that holds <c>adapter_config.json</c>, with <c>-Model</c>.</summary>
    [Parameter(Mandatory = true, Position = 0, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    [Alias("PSPath", "LP", "LiteralPath")]
    [ValidateNotNullOrEmpty]
    public string Path { get; set; } = "";

    /// <summary>The file to write; in a folder that is there, one of the source's name.</summary>
    [Parameter(Mandatory = true, Position = 1)]
    [ValidateNotNullOrEmpty]
    public string OutputPath { get; set; } = "";

    /// <summary>The format to write.</summary>
    [Parameter(Mandatory = true, Position = 2)]
    [ValidateSet("Kohya", "LyCORIS", "Diffusers")]
    public string Format { get; set; } = "";

    /// <summary>The model that the adapter was made for, whose modules its names mean; imported with -StructureOnly it does. Without it the published Stable Diffusion 1, 2 or XL, whichever the file says or shows.</summary>
    [Parameter]
    [ModelArgument]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    public PeftModel? Model { get; set; }

    /// <summary>Type of the tensors that are written; <c>auto</c> keeps theirs.</summary>
    [Parameter]
    [ValidateSet("auto", "float32", "bfloat16", "float16")]
    [PSDefaultValue(Value = "auto", Help = "auto")]
    public string DataType { get; set; } = "auto";

    /// <summary>Writes over a file that is there already.</summary>
    [Parameter]
    public SwitchParameter Force { get; set; }

    /// <inheritdoc/>
    protected override void Process() => Each([Path], path =>
    {
        var source = PathResolution.ResolveLiteral(this, path);
        var target = PathResolution.Target(this, OutputPath);
        target = Directory.Exists(target) ? System.IO.Path.Combine(target, System.IO.Path.GetFileNameWithoutExtension(source) + ".safetensors") : target;
        if (source == target)
        {
            throw new PeftException("OutputExists", $"'{source}' can't be converted into itself.") { Target = source, RecommendedAction = "Give another name for what is written." };
        }

        ExportPeftAdapterCommand.RefuseExisting(target, Force);
        if (ShouldProcess(target, $"Write '{source}' in the format {Format}"))
        {
            var (format, type) = (Enum.Parse<DiffusionAdapterFormat>(Format, ignoreCase: true), EngineNames.DataType(DataType));
            var report = Run(_ => DiffusionAdapterFile.FolderOf(source) is { } folder
                ? DiffusionAdapterFile.ConvertFolder(Model ?? throw ModelMissing(folder), folder, target, format, type)
                : DiffusionAdapterFile.Convert(source, target, format, Model?.Base, type));
            if (report.Lost.Count > 0)
            {
                WriteWarning(report.ToString());
            }

            WriteObject(report);
        }
    });

    private static PeftException ModelMissing(string folder) => new("AdapterModelUnclear", $"'{folder}' is an adapter in PEFT's layout, which is converted on the model that it was made for.")
    {
        Target = folder,
        RecommendedAction = "Give the model with -Model, from Import-PeftModel.",
    };
}
