using System.Collections;
using System.Globalization;
using System.Management.Automation;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Commands.Text;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Diffusion.Pipelines;
using Peft.Images;

namespace Peft.Cmdlets.Commands.Image;

/// <summary>Invoke-ImageGeneration: makes pictures from text, changes pictures, and fills parts of them.</summary>
[Cmdlet(VerbsLifecycle.Invoke, "ImageGeneration", DefaultParameterSetName = ModelSet)]
[OutputType(typeof(ImageResult))]
public sealed class InvokeImageGenerationCommand : TextModelCommand
{
    private string _folder = "";
    private bool _hasPrompt;

    /// <summary>What the pictures should show. <c>(word)</c> and <c>(word:1.3)</c> count more, <c>[word]</c> less; prompts may be of any length.</summary>
    [Parameter(Mandatory = true, Position = 0, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    [AllowEmptyString]
    public string[] Prompt { get; set; } = [];

    /// <summary>What the pictures should not show.</summary>
    [Parameter(ValueFromPipelineByPropertyName = true)]
    [Alias("negative_prompt")]
    public string? NegativePrompt { get; set; }

    /// <summary>Adapters that act for this command, in order, whatever is active on the model; wildcards are allowed, and <c>base</c> for none.</summary>
    [Parameter(ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterOrBaseCompleter))]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_name")]
    public string[]? AdapterName { get; set; }

    /// <summary>Pictures of each prompt; each has the next seed.</summary>
    [Parameter]
    [Alias("num_images_per_prompt")]
    [ValidateRange(1, int.MaxValue)]
    [PSDefaultValue(Value = 1, Help = "1")]
    public int Count { get; set; } = 1;

    /// <summary>Pixels in a row, a multiple of eight for the published models.</summary>
    [Parameter]
    [ValidateRange(1, 1 << 14)]
    [PSDefaultValue(Help = "what the model was made for, or the input's")]
    public int Width { get; set; }

    /// <summary>Rows of pixels, a multiple of eight for the published models.</summary>
    [Parameter]
    [ValidateRange(1, 1 << 14)]
    [PSDefaultValue(Help = "what the model was made for, or the input's")]
    public int Height { get; set; }

    /// <summary>Steps from noise to picture.</summary>
    [Parameter]
    [Alias("num_inference_steps", "Steps")]
    [ValidateRange(1, 1000)]
    [PSDefaultValue(Value = ImageOptions.DefaultSteps, Help = "30")]
    public int Step { get; set; } = ImageOptions.DefaultSteps;

    /// <summary>How far each step goes towards the prompt and beyond; 1 makes no use of the negative prompt and takes half the time.</summary>
    [Parameter]
    [Alias("guidance_scale", "CfgScale")]
    [PSDefaultValue(Help = "7.5, and 5 for SDXL")]
    public double GuidanceScale { get; set; }

    /// <summary>Takes back what high guidance does to contrast, from 0 to 1.</summary>
    [Parameter]
    [Alias("guidance_rescale")]
    [ValidateRange(0.0, 1.0)]
    [PSDefaultValue(Value = 0.0, Help = "0")]
    public double GuidanceRescale { get; set; }

    /// <summary>Blocks at the end of the text encoder that are left out; what the web interfaces call 2 is 1 here, as in diffusers.</summary>
    [Parameter]
    [Alias("clip_skip")]
    [ValidateRange(0, 100)]
    [PSDefaultValue(Value = 0, Help = "0")]
    public int ClipSkip { get; set; }

    /// <summary>The scheduler, by diffusers' name or a short one, such as <c>EulerAncestral</c>.</summary>
    [Parameter]
    [Alias("Sampler")]
    [ArgumentCompleter(typeof(SchedulerCompleter))]
    [ValidateNotNullOrEmpty]
    [PSDefaultValue(Help = "the model's")]
    public string? Scheduler { get; set; }

    /// <summary>Options of the scheduler by diffusers' names, such as <c>@{ use_karras_sigmas = $true }</c>.</summary>
    [Parameter]
    [ValidateNotNull]
    public Hashtable? SchedulerOption { get; set; }

    /// <summary>Repeats pictures exactly on one machine; without it each run draws anew, and the result says what would repeat it.</summary>
    [Parameter(ValueFromPipelineByPropertyName = true)]
    public ulong? Seed { get; set; }

    /// <summary>A picture to change: PNG, JPEG or WebP.</summary>
    [Parameter(ValueFromPipelineByPropertyName = true)]
    [Alias("init_image")]
    [ValidateNotNullOrEmpty]
    public string? InputImage { get; set; }

    /// <summary>A picture that is white where <c>-InputImage</c> is changed and black where it stays.</summary>
    [Parameter]
    [Alias("mask_image")]
    [ValidateNotNullOrEmpty]
    public string? MaskImage { get; set; }

    /// <summary>How much of <c>-InputImage</c> is changed: near 0 it stays as it is, 1 makes it anew.</summary>
    [Parameter]
    [ValidateRange(0.0, 1.0)]
    [PSDefaultValue(Value = 0.8, Help = "0.8")]
    public double Strength { get; set; } = 0.8;

    /// <summary>Folder for the pictures, which is made where it isn't there; or a file's name, where there is one picture.</summary>
    [Parameter]
    [PSDefaultValue(Help = "the current folder")]
    [ValidateNotNullOrEmpty]
    public string OutputPath { get; set; } = ".";

    /// <summary>Writes what a picture looks like so far beside it, each time that so many steps are done; the last one is taken away at the end.</summary>
    [Parameter]
    [ValidateRange(1, int.MaxValue)]
    public int PreviewEvery { get; set; }

    /// <summary>Takes brackets in prompts as letters.</summary>
    [Parameter]
    public SwitchParameter PlainPrompt { get; set; }

    /// <summary>Cuts off what the text encoder can't read at once, as diffusers does; without it a long prompt is read piece by piece, as in the web interfaces.</summary>
    [Parameter]
    public SwitchParameter TruncatePrompt { get; set; }

    /// <summary>Writes over a file that is there.</summary>
    [Parameter]
    public SwitchParameter Force { get; set; }

    private bool IsFile => ImageFile.IsImage(_folder) && !Directory.Exists(_folder);

    /// <inheritdoc/>
    protected override void Begin()
    {
        _folder = PathResolution.Target(this, OutputPath);
        _hasPrompt = Given(nameof(Prompt)) || Given(nameof(Model)) || Given(nameof(Adapter));
    }

    /// <inheritdoc/>
    protected override void Process()
    {
        // A model that comes down the pipeline would be its own prompt.
        if (!_hasPrompt)
        {
            throw new PeftException("TextMissing", "There is no prompt.") { RecommendedAction = "Give a -Prompt, or send prompts down the pipeline and the model as -Model." };
        }

        Each(Prompt, Make);
    }

    private void Make(string prompt)
    {
        var generator = new ImageGenerator(TheModel, SelectionOf(AdapterName));
        var options = Options();
        for (var i = 0; i < Count; i++)
        {
            var own = options with { Seed = Seed is { } seed ? seed + (ulong)i : null };
            WriteObject(Run(output => Generate(generator, prompt, own, i, output)));
        }
    }

    private ImageResult Generate(ImageGenerator generator, string prompt, ImageOptions options, int index, WorkOutput output)
    {
        if (IsFile)
        {
            RefuseUsed(_folder);
        }

        var progress = new ProgressLine(output, "Making a picture", plainLines: true);
        var preview = Path.Combine(IsFile ? Path.GetDirectoryName(_folder)! : _folder, $"preview-{Environment.ProcessId}.png");
        try
        {
            var made = generator.Generate(
                prompt,
                options,
                step =>
                {
                    progress.Show(step.Step, step.Steps, Count == 1
                        ? FormattableString.Invariant($"step {step.Step} of {step.Steps}")
                        : FormattableString.Invariant($"picture {index + 1} of {Count}, step {step.Step} of {step.Steps}"));
                    if (PreviewEvery > 0 && step.Step % PreviewEvery == 0 && step.Step < step.Steps)
                    {
                        ImageFile.Write(step.Preview(), preview);
                        output.WriteVerbose($"Preview: {preview}");
                    }
                },
                output.Cancellation);
            progress.Complete();
            var path = FileOf(made);
            ImageFile.Write(made.Image, path, new Dictionary<string, string> { ["parameters"] = made.Parameters });
            return new ImageResult(path, prompt, made.Seed, made.Image.Width, made.Image.Height, options.Steps, made.Parameters, made.Time) { NegativePrompt = options.NegativePrompt };
        }
        finally
        {
            File.Delete(preview);
        }
    }

    private string FileOf(GeneratedImage made)
    {
        if (IsFile)
        {
            return _folder;
        }

        var seed = made.Seed.ToString(CultureInfo.InvariantCulture);
        var number = 1;
        string path;
        do
        {
            path = Path.Combine(_folder, $"{number.ToString("D4", CultureInfo.InvariantCulture)}-{seed}.png");
            number++;
        }
        while (File.Exists(path));
        return path;
    }

    private void RefuseUsed(string path)
    {
        if (Count > 1)
        {
            throw new PeftException("ParametersContradict", $"{Count} pictures can't be one file, '{path}'.") { Target = path, RecommendedAction = "Give -OutputPath a folder." };
        }

        if (!Force && File.Exists(path))
        {
            throw new PeftException("OutputExists", $"The file '{path}' is there already.") { Target = path, RecommendedAction = "Choose another name, or write over it with -Force." };
        }
    }

    private ImageOptions Options() => new()
    {
        NegativePrompt = NegativePrompt,
        Steps = Step,
        GuidanceScale = Given(nameof(GuidanceScale)) ? GuidanceScale : null,
        GuidanceRescale = GuidanceRescale,
        ClipSkip = ClipSkip,
        Width = Width > 0 ? Width : null,
        Height = Height > 0 ? Height : null,
        Scheduler = Scheduler,
        SchedulerOptions = SchedulerOption is null ? null : new JsonObject(SchedulerOption.Cast<DictionaryEntry>().Select(static entry =>
            KeyValuePair.Create(entry.Key.ToString()!, JsonSerializer.SerializeToNode(DatasetRow.Value(entry.Value))))),
        Image = InputImage is null ? null : ImageFile.Read(PathResolution.ResolveLiteral(this, InputImage)),
        Mask = MaskImage is null ? null : ImageFile.Read(PathResolution.ResolveLiteral(this, MaskImage)),
        Strength = Strength,
        WeighsWords = !PlainPrompt,
        TruncatesPrompts = TruncatePrompt,
    };
}
