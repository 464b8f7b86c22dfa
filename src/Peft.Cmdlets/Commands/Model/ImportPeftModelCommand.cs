using System.Collections;
using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Cmdlets.Session;
using Peft.Diffusion;
using Peft.Engine;
using Peft.Hub;
using Peft.Models;
using Peft.Models.Placement;
using Peft.Quantization;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>Import-PeftModel: loads a model from a folder in Hugging Face's layout, from a GGUF file, from a checkpoint of a diffusion model or from the hub's cache.</summary>
[Cmdlet(VerbsData.Import, "PeftModel", DefaultParameterSetName = PathSet, SupportsShouldProcess = true)]
[OutputType(typeof(PeftModel))]
[OutputType(typeof(ModulePlacement))]
public sealed class ImportPeftModelCommand : ImportCommand
{
    /// <summary>Folders that hold <c>config.json</c> and weights, <c>.gguf</c> files, or diffusion models: folders with <c>model_index.json</c>, and checkpoints in one file (<c>.safetensors</c>, <c>.ckpt</c>). Wildcards are allowed.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = PathSet, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    [SupportsWildcards]
    [ValidateNotNullOrEmpty]
    public override string[] Path { get; set; } = [];

    /// <summary>What to call the model in this session. Without it the folder's name is taken.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public string? Name { get; set; }

    /// <summary>For a diffusion model in one file, a folder in diffusers' layout whose configurations and tokenizers belong to it. Without it configurations are told from the file's shapes, and tokenizers are looked for beside the file.</summary>
    [Parameter]
    [Alias("config")]
    [ValidateNotNullOrEmpty]
    public string? ConfigPath { get; set; }

    /// <summary>Type to hold the weights in; <c>auto</c> keeps the file's.</summary>
    [Parameter]
    [EnumSpelling(Null = "auto")]
    [ValidateSet("auto", "float32", "bfloat16", "float16")]
    [Alias("torch_dtype", "dtype")]
    [PSDefaultValue(Value = "auto", Help = "auto")]
    public string DataType { get; set; } = "auto";

    /// <summary>Where the model runs: <c>auto</c>, <c>cpu</c>, <c>cuda</c>, <c>cuda:1</c>. <c>auto</c> takes a GPU where there is one.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(DeviceCompleter))]
    [PSDefaultValue(Value = "auto", Help = "auto")]
    [ValidateNotNullOrEmpty]
    public string Device { get; set; } = "auto";

    /// <summary>What the model is to do, by PEFT's names, which chooses its head: a classifier of rows is <c>SEQ_CLS</c>, of images <c>IMAGE_CLASSIFICATION</c> (which PEFT has no name for). A head that the folder doesn't hold is made anew, for training. Without it the folder's own head is taken.</summary>
    [Parameter]
    [Alias("task_type")]
    [ValidateSet("CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION", "MASKED_LM", "IMAGE_CLASSIFICATION")]
    public string? TaskType { get; set; }

    /// <summary>Names of the classes, for <c>SEQ_CLS</c>, <c>TOKEN_CLS</c> and <c>IMAGE_CLASSIFICATION</c>; a single one is a value that is estimated. Without it the folder's.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public string[]? Label { get; set; }

    /// <summary>Threads to compute with on the processor, for all models of this process. Without it <c>OMP_NUM_THREADS</c>, else the physical cores.</summary>
    [Parameter]
    public int Threads { get; set; }

    /// <summary>How the weights of linear layers are quantised: what New-QuantizationConfig makes, or a table with the same names. Without it they stay as they are.</summary>
    [Parameter]
    [Alias("quantization_config")]
    [QuantizationArgument]
    public QuantizationConfig? Quantization { get; set; }

    /// <summary>Keeps the quantised blocks of a <c>.gguf</c> file as the weights of linear layers and experts: they take no more memory than in the file, and adapters are trained on them as on any quantised base. Without it they are unpacked.</summary>
    [Parameter]
    public SwitchParameter KeepQuantized { get; set; }

    /// <summary>Quantises to four bits with the defaults of New-QuantizationConfig.</summary>
    [Parameter]
    [Alias("load_in_4bit")]
    public SwitchParameter LoadIn4Bit { get; set; }

    /// <summary>Quantises to eight bits (LLM.int8) with the defaults of New-QuantizationConfig.</summary>
    [Parameter]
    [Alias("load_in_8bit")]
    public SwitchParameter LoadIn8Bit { get; set; }

    /// <summary>An adapter that is put on the model at once, as Add-PeftAdapter does: what New-LoraConfig makes, or a table with its parameters. Its name is <c>default</c>.</summary>
    [Parameter]
    [Alias("peft_config")]
    [ConfigArgument]
    public AdapterConfig? PeftConfig { get; set; }

    /// <summary>
    /// Where modules go, as transformers has it: <c>auto</c> (also <c>balanced</c>, <c>sequential</c>), a device, the number of a GPU, or a table of modules and devices, such as
    /// <c>@{ '' = 0 }</c> or <c>@{ 'model.embed_tokens' = 'cpu'; 'model.layers' = 'disk'; 'model.norm' = 'cpu'; lm_head = 'cpu' }</c>. What lies on the
    /// <c>disk</c>, or beside a GPU on the <c>cpu</c>, is brought to the device that computes block by block. <c>-WhatIf</c> shows where modules would lie.
    /// </summary>
    [Parameter]
    [Alias("device_map")]
    [ArgumentCompleter(typeof(DeviceMapCompleter))]
    public object? DeviceMap { get; set; }

    /// <summary>The most memory that the weights may take, by device, such as <c>@{ 0 = '10GiB'; cpu = '8GB' }</c>. Devices are filled in this order, GPUs first, and what is left stays on the disk. Where modules lie is said before the model is loaded.</summary>
    [Parameter]
    [Alias("max_memory")]
    [MemoryLimitArgument]
    public IDictionary? MaxMemory { get; set; }

    /// <summary>A folder for weights that stay on the disk and have to be written again for it, since they are quantised or of another type than in the model's files. They are removed with the model.</summary>
    [Parameter]
    [Alias("offload_folder")]
    public string? OffloadFolder { get; set; }

    /// <summary>Taken because a tutorial gives it; keys and values are kept while a text is generated, and not in training, whatever it says.</summary>
    [Parameter]
    [Alias("use_cache")]
    public object? UseCache { get; set; }

    /// <summary>Taken because a tutorial gives it: code that comes with a model is never run. Where the model brings some, it is said which built-in family serves it instead.</summary>
    [Parameter]
    [Alias("trust_remote_code")]
    public SwitchParameter TrustRemoteCode { get; set; }

    /// <summary>Reads the configuration alone: modules and counts are there at once, weights are not loaded.</summary>
    [Parameter]
    public SwitchParameter StructureOnly { get; set; }

    /// <summary>Refuses a quantisation before anything is fetched.</summary>
    protected override void Begin()
    {
        Quantization = QuantizationArgumentAttribute.Chosen(Quantization, LoadIn4Bit, LoadIn8Bit);
        if (DeviceMap is not null && Given(nameof(Device)))
        {
            throw Contradict(nameof(DeviceMap), "says already where the model goes, and -Device says it again", "Leave one of them out.");
        }

        if (Quantization is not null && StructureOnly)
        {
            throw Contradict(nameof(StructureOnly), "loads no weights, so there are none to quantise", "Leave one of them out.");
        }
    }

    /// <inheritdoc/>
    private protected override void Import(string path, string name)
    {
        if (MyInvocation.BoundParameters.ContainsKey(nameof(Threads)))
        {
            Run(_ => ComputeThreads.Choose(Threads));
        }

        var options = new LoadOptions
        {
            DataType = EngineNames.DataType(DataType),
            Device = EngineNames.Device(Device),
            StructureOnly = StructureOnly,
            KeepsBlocks = KeepQuantized,
            Task = TaskType,
            Labels = Label,
        };
        if (DeviceMap is not null || MaxMemory is not null)
        {
            options = Placed(path, options);
        }

        if (!ShouldProcess(path, "Import-PeftModel"))
        {
            WriteObject(Run(_ => Plan(path, options, Quantization)), enumerateCollection: true);
            return;
        }

        var model = ImportModel(path, Name ?? name, options, Quantization, ConfigPath is null ? null : PathResolution.ResolveLiteral(this, ConfigPath));
        if (Quantization is not null && ModelQuantizer.UnquantizedExperts(model.Base) is { } left)
        {
            WriteWarning(left);
        }

        if (TrustRemoteCode)
        {
            WriteWarning($"Code that comes with '{model.Name}' isn't run: the built-in family '{model.Config.ModelType}' serves it.");
        }

        if (PeftConfig is not null)
        {
            try
            {
                Run(output => model.AddAdapter(PeftConfig).Report.Messages.ForEach(output.WriteWarning));
            }
            catch
            {
                model.Dispose();
                LoadedModels.Remove(model);
                throw;
            }
        }

        WriteObject(model);
    }

    /// <summary>The options with what is asked for of devices and memory. A whole model on one device without a limit needs no map.</summary>
    private LoadOptions Placed(string path, LoadOptions options)
    {
        var map = DeviceMaps.Parse(DeviceMap, MaxMemory is null ? null : MemoryLimits.Parse(MaxMemory, WriteWarning), Given(nameof(Device)) ? options.Device : null);
        if (map is { Table: [("", var only)], MaxMemory.Count: 0 } && only != DeviceMapRequest.Disk)
        {
            return options with { Device = EngineNames.Device(only) };
        }

        return map is null || (map.Table is null && MaxMemory is null && DiffusionModelFiles.IsDiffusionModel(path)) ? options : options with
        {
            DeviceMap = map with
            {
                OffloadFolder = string.IsNullOrEmpty(OffloadFolder) ? null : PathResolution.Target(this, OffloadFolder),
            },
        };
    }

    private static IReadOnlyList<ModulePlacement> Plan(string path, LoadOptions options, QuantizationConfig? quantization) => PeftModel.Plan(path, options with
    {
        Packing = quantization is null ? null : new ModelQuantizer(quantization),
        DeviceMap = options.DeviceMap ?? new DeviceMapRequest { Table = [("", options.Device is { type: not TorchSharp.DeviceType.CPU } gpu ? gpu.ToString() : DeviceMapRequest.Cpu)] },
    });

    private static PeftException Contradict(string parameter, string why, string action) =>
        new("ParametersContradict", $"-{parameter} {why}.") { Target = parameter, RecommendedAction = action };

    /// <inheritdoc/>
    private protected override bool IsWhole(string folder) => StructureOnly ? File.Exists(System.IO.Path.Combine(folder, "config.json")) : base.IsWhole(folder);

    /// <inheritdoc/>
    private protected override IReadOnlyList<HubFile> Choose(IReadOnlyList<HubFile> files) =>
        base.Choose(StructureOnly && files.Any(static file => file.Path == "config.json") ? [.. files.Where(static file => !HubModelFiles.IsWeights(file.Path))] : files);
}
