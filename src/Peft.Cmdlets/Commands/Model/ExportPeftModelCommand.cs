using System.Management.Automation;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Cmdlets.Session;
using Peft.Models;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Evaluation;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>Export-PeftModel: writes the model with its tokenizer as transformers reads it, or as one GGUF file for llama.cpp.</summary>
[Cmdlet(VerbsData.Export, "PeftModel", SupportsShouldProcess = true)]
[OutputType(typeof(PeftModel), typeof(CalibratedFile))]
public sealed class ExportPeftModelCommand : ModelCommand
{
    private const string SafetensorsFormat = "Safetensors";
    private const string GgufFormat = "Gguf";
    private const string GgufEnding = ".gguf";

    /// <summary>Folder to write to; it is made when it isn't there. With <c>-Format Gguf</c> a file's name, or a folder for a file of the model's name and type. A diffusion model is written as one file where the name ends in <c>.safetensors</c>.</summary>
    [Parameter(Mandatory = true, Position = 0)]
    [ValidateNotNullOrEmpty]
    public string Path { get; set; } = "";

    /// <summary>Safetensors as transformers reads them, or one GGUF file for llama.cpp, LM Studio and Ollama, which is also what a path that ends in <c>.gguf</c> asks for.</summary>
    [Parameter]
    [ValidateSet(SafetensorsFormat, GgufFormat)]
    [PSDefaultValue(Value = SafetensorsFormat, Help = SafetensorsFormat)]
    public string Format { get; set; } = SafetensorsFormat;

    /// <summary>How a GGUF file holds the weights: a type, or one of llama.cpp's mixtures of types.</summary>
    [Parameter]
    [ValidateSet("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0")]
    [PSDefaultValue(Value = "Q8_0", Help = "Q8_0")]
    public string Type { get; set; } = "Q8_0";

    /// <summary>A data set that says which inputs of a layer matter: errors in their weights count more where a GGUF file has blocks of 256 numbers (<c>Q4_K_M</c>, <c>Q5_K_M</c>, <c>Q6_K</c>). Up to 256 of its rows are run through the model first, and its perplexity on them, before and in the file, is put out.</summary>
    [Parameter]
    [DatasetArgument]
    [ArgumentCompleter(typeof(DatasetCompleter))]
    public TrainingDataset? Calibration { get; set; }

    /// <summary>Type to write the weights of safetensors in; <c>auto</c> keeps the model's.</summary>
    [Parameter]
    [EnumSpelling(Null = "auto")]
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
        if (!IsGguf && (Given(nameof(Type)) || Given(nameof(Calibration))))
        {
            throw new PeftException("ParametersContradict", $"-{(Given(nameof(Type)) ? nameof(Type) : nameof(Calibration))} says how a GGUF file holds the weights, and goes with -Format Gguf.")
            {
                RecommendedAction = "Add -Format Gguf, or say -DataType for safetensors.",
            };
        }

        if (IsGguf && (Given(nameof(DataType)) || Given(nameof(MaxShardSize))))
        {
            throw new PeftException("ParametersContradict", $"-{(Given(nameof(DataType)) ? nameof(DataType) : nameof(MaxShardSize))} is for safetensors; a GGUF file is one, and -Type says how it holds the weights.")
            {
                RecommendedAction = "Say -Type, such as BF16 or Q8_0, or leave -Format Gguf out.",
            };
        }

        // The name of a file in a folder is the model's, which isn't known yet.
        if (Given(nameof(Path)) && (!IsGguf || Path.EndsWith(GgufEnding, StringComparison.OrdinalIgnoreCase)))
        {
            RefuseUsed(PathResolution.Target(this, Path));
        }
    }

    private bool IsGguf => Given(nameof(Format)) ? Format.Equals(GgufFormat, StringComparison.OrdinalIgnoreCase) : Path.EndsWith(GgufEnding, StringComparison.OrdinalIgnoreCase);

    private string Target()
    {
        var path = PathResolution.Target(this, Path);
        return IsGguf && !path.EndsWith(GgufEnding, StringComparison.OrdinalIgnoreCase) ? System.IO.Path.Combine(path, $"{Model.Name}.{Type.ToUpperInvariant()}{GgufEnding}") : path;
    }

    private void RefuseUsed(string folder)
    {
        if (IsGguf)
        {
            if (!Force && File.Exists(folder))
            {
                throw new PeftException("OutputExists", $"There is a file '{folder}' already.") { Target = folder, RecommendedAction = "Choose another name, or write over it with -Force." };
            }

            return;
        }

        OutputFolder.RequireFree(folder, Force);
    }

    private CalibratedFile SaveCalibrated(string path, Action<long, long> onProgress, WorkOutput output)
    {
        var data = Calibration!.Tokenize(Model.RequiredTokenizer, new TokenizationOptions(), cancellation: output.Cancellation);
        data.Messages.ForEach(output.WriteWarning);
        var before = DatasetPerplexity.Measure(Model, data, AdapterSelection.Base, cancellation: output.Cancellation);
        Model.SaveGguf(path, Type, onProgress, output.WriteWarning, ColumnImportance.Measure(Model, data, cancellation: output.Cancellation), output.Cancellation);
        using var written = PeftModel.Load(path, new LoadOptions { KeepsBlocks = true, DataType = Model.Base.DataType, Cancellation = output.Cancellation });
        var after = DatasetPerplexity.Measure(written, data, cancellation: output.Cancellation);
        return new CalibratedFile(path, Type.ToUpperInvariant(), Math.Min(data.Count, StartRows.Most), before.Value, after.Value);
    }

    /// <inheritdoc/>
    protected override void Process()
    {
        var folder = Target();
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

            var calibrated = Run(output =>
            {
                CalibratedFile? file = null;
                output.WriteVerbose($"Writing '{Model.Name}' to '{folder}'.");
                if (Model.NonFiniteWarning(output.Cancellation) is { } warning)
                {
                    output.WriteWarning(warning);
                }

                var progress = new ProgressLine(output, $"Exporting '{Model.Name}'");
                void Show(long done, long total) => progress.Show(done, total, FormattableString.Invariant($"{done / 1e6:N0} of {total / 1e6:N0} MB"));
                if (Calibration is not null)
                {
                    file = SaveCalibrated(folder, Show, output);
                }
                else if (IsGguf)
                {
                    Model.SaveGguf(folder, Type, Show, output.WriteWarning, cancellation: output.Cancellation);
                }
                else
                {
                    Model.Save(folder, EngineNames.DataType(DataType), MaxShardSize, Show, output.Cancellation);
                }

                progress.Complete();
                return file;
            });
            if (calibrated is not null)
            {
                WriteObject(calibrated);
            }

            if (PassThru)
            {
                WriteObject(Model);
            }
        }
    }
}
