using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Conversion;
using Peft.Adapters.Files;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Diffusion.Adapters;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>Export-PeftAdapter: writes adapters as PEFT reads them.</summary>
[Cmdlet(VerbsData.Export, "PeftAdapter", SupportsShouldProcess = true, DefaultParameterSetName = AdapterSet)]
[OutputType(typeof(PeftAdapter))]
public sealed class ExportPeftAdapterCommand : AdapterCommand
{
    private const string GgufFormat = "Gguf";
    private const string GgufEnding = ".gguf";

    private readonly List<PeftAdapter> _adapters = [];

    /// <summary>Folder to write to. A single adapter's files go into it, those of several into a subfolder for each. GGUF and the formats of diffusion models are one file for each adapter: in this folder, or of this name where it ends in <c>.gguf</c> or <c>.safetensors</c>.</summary>
    [Parameter(Mandatory = true, Position = 0)]
    [ValidateNotNullOrEmpty]
    public string Path { get; set; } = "";

    /// <summary>Names of the model's adapters to write; wildcards are allowed.</summary>
    [Parameter(ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterNameCompleter))]
    [PSDefaultValue(Value = "*", Help = "*")]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_name")]
    public string[] AdapterName { get; set; } = ["*"];

    /// <summary>Writes LoRA for the base as it was loaded: of an adapter whose start took a part out of the base (PiSSA, OLoRA) at twice the rank, so that other programs need not make that start again; of another method as ConvertTo-LoraAdapter does.</summary>
    [Parameter]
    public SwitchParameter AsLora { get; set; }

    /// <summary>Whose form the files have: PEFT's, which most programs read, MLX's (<c>adapters.safetensors</c> for mlx-lm on Apple's machines; LoRA and DoRA alone), llama.cpp's (one <c>.gguf</c> file, for use beside the base as GGUF; what is LoRA in the end; a path of that ending asks for it), or one of those in which adapters of diffusion models are passed around: kohya's and the web UI's (LoRA and DoRA), LyCORIS's (all of its algorithms), diffusers' (LoRA and DoRA). What such a format can't hold is said.</summary>
    [Parameter]
    [ValidateSet("Peft", "Mlx", "Gguf", "Kohya", "LyCORIS", "Diffusers")]
    [PSDefaultValue(Value = "Peft", Help = "Peft")]
    public string Format { get; set; } = "Peft";

    /// <summary>How PEFT's form holds LoRA on experts: one pair of factors for the weight of all (Fused, as PEFT writes today), or a pair for each layer of each expert (PerExpert, as it wrote before transformers 5, for programs that still read that).</summary>
    [Parameter]
    [PSDefaultValue(Value = AdapterLayout.Fused, Help = "Fused")]
    public AdapterLayout Layout { get; set; }

    /// <summary>Writes over an adapter that is in the folder already.</summary>
    [Parameter]
    public SwitchParameter Force { get; set; }

    /// <summary>Puts the adapters out again.</summary>
    [Parameter]
    public SwitchParameter PassThru { get; set; }

    /// <summary>The format that is written: a name that ends in <c>.gguf</c> asks for llama.cpp's.</summary>
    private string Form => !Given(nameof(Format)) && Path.EndsWith(GgufEnding, StringComparison.OrdinalIgnoreCase) ? GgufFormat : Format;

    /// <inheritdoc/>
    protected override void Begin()
    {
        if (Layout != AdapterLayout.Fused && (AsLora || !Form.Equals("Peft", StringComparison.OrdinalIgnoreCase)))
        {
            throw new PeftException("ParametersContradict", "-Layout says how PEFT's files hold the adapter as it is; -Format and -AsLora write something else.")
            {
                Target = nameof(Layout),
                RecommendedAction = "Leave -Layout out, or -Format and -AsLora.",
            };
        }
    }

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
        if (Enum.TryParse<DiffusionAdapterFormat>(Form, ignoreCase: true, out var format))
        {
            ExportFile(adapter, format);
            return;
        }

        if (Form.Equals(GgufFormat, StringComparison.OrdinalIgnoreCase))
        {
            ExportGguf(adapter);
            return;
        }

        OutputFolder.RequireFreeOfAdapters(folder, Force);
        if (ShouldProcess(folder, $"Write the adapter '{adapter.Name}'"))
        {
            if (Form.Equals("Mlx", StringComparison.OrdinalIgnoreCase))
            {
                Run(_ => MlxAdapter.Save(adapter.Model, adapter.Name, folder));
            }
            else if (AsLora)
            {
                WriteLine($"{adapter.Name}: {Run(output => AdapterConversion.SaveAsLora(adapter.Model, adapter.Name, folder, new ConversionOptions { Cancellation = output.Cancellation }))}");
            }
            else
            {
                Run(_ => adapter.Model.SaveAdapter(adapter.Name, folder, layout: Layout));
            }

            if (PassThru)
            {
                WriteObject(adapter);
            }
        }
    }

    private void ExportGguf(PeftAdapter adapter)
    {
        var file = FileOf(GgufEnding, adapter.Name + GgufEnding);
        RefuseExisting(file, Force);
        if (ShouldProcess(file, $"Write the adapter '{adapter.Name}' in the format {Form}"))
        {
            Run(_ => GgufAdapter.Save(adapter.Model, adapter.Name, file));
            if (PassThru)
            {
                WriteObject(adapter);
            }
        }
    }

    /// <summary>The path that was given where it names a file and there is one adapter, otherwise a file in that folder.</summary>
    private string FileOf(string extension, string name)
    {
        var root = PathResolution.Target(this, Path);
        return _adapters.Count == 1 && root.EndsWith(extension, StringComparison.OrdinalIgnoreCase) ? root : System.IO.Path.Combine(root, name);
    }

    /// <summary>A format of diffusion models is a single file.</summary>
    private void ExportFile(PeftAdapter adapter, DiffusionAdapterFormat format)
    {
        var file = FileOf(".safetensors", _adapters.Count == 1 && format == DiffusionAdapterFormat.Diffusers ? "pytorch_lora_weights.safetensors" : $"{adapter.Name}.safetensors");
        RefuseExisting(file, Force);
        if (ShouldProcess(file, $"Write the adapter '{adapter.Name}' in the format {Form}"))
        {
            var report = Run(_ => DiffusionAdapterFile.Save(adapter.Model, adapter.Name, file, format));
            if (report.Lost.Count > 0)
            {
                WriteWarning($"{adapter.Name}: {report}");
            }
            else
            {
                WriteLine($"{adapter.Name}: {report}");
            }

            if (PassThru)
            {
                WriteObject(adapter);
            }
        }
    }

    /// <summary>Refuses to write over a file.</summary>
    /// <exception cref="PeftException"><c>OutputExists</c>.</exception>
    internal static void RefuseExisting(string file, bool isForced)
    {
        if (!isForced && File.Exists(file))
        {
            throw new PeftException("OutputExists", $"There is a file '{file}' already.")
            {
                Target = file,
                RecommendedAction = "Choose another name, or write over it with -Force.",
            };
        }
    }
}
