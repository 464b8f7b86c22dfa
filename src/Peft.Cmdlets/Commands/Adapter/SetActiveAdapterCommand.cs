using System.Collections;
using System.Globalization;
using System.Management.Automation;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Diffusion.Adapters;
using Peft.Models;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>Set-ActiveAdapter: chooses the adapters that act, in order and strength.</summary>
[Cmdlet(VerbsCommon.Set, "ActiveAdapter", SupportsShouldProcess = true, DefaultParameterSetName = AdapterSet)]
[OutputType(typeof(PeftAdapter))]
public sealed class SetActiveAdapterCommand : AdapterCommand
{
    private readonly List<PeftAdapter> _adapters = [];
    private readonly HashSet<PeftModel> _models = [];

    /// <summary>Names of the model's adapters in the order in which they act; wildcards are allowed. An empty list leaves the base alone.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterNameCompleter))]
    [AllowEmptyCollection]
    [Alias("adapter_name")]
    public string[] AdapterName { get; set; } = [];

    /// <summary>Strength of each adapter, in the same order; 1 is as trained.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_weights")]
    public float[]? Weight { get; set; }

    /// <summary>Strength by block of a diffusion model, which multiplies <c>-Weight</c>: the web UI's numbers (<c>'1,0,0,0.5,…'</c>: the text encoders, then the blocks with attention, or all), or diffusers' table, such as <c>@{ down = 0.5; mid = 1; up = @{ block_1 = 0.8, 1, 1 }; text_encoder = 0 }</c>. One for all adapters, or one for each, in the same order; <c>$null</c> for 1 everywhere.</summary>
    [Parameter]
    [AllowNull]
    public object?[]? BlockWeight { get; set; }

    /// <summary>Puts the active adapters out again.</summary>
    [Parameter]
    public SwitchParameter PassThru { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        var chosen = Chosen(AdapterName);
        _adapters.AddRange(chosen);
        _models.UnionWith(ParameterSetName == ModelSet ? [Model] : chosen.Select(static adapter => adapter.Model));
    }

    /// <inheritdoc/>
    protected override void End()
    {
        if (Weight is not null && Weight.Length != _adapters.Count)
        {
            throw new PeftException("WeightCountMismatch", $"-Weight gives {Weight.Length} strengths for {_adapters.Count} adapters.")
            {
                RecommendedAction = "Give one strength for each adapter, in the same order.",
            };
        }

        var blocks = BlockWeight is { Length: > 0 } && Array.TrueForAll(BlockWeight, static entry => entry.Unwrap() is int or double or float or decimal) ? [BlockWeight] : BlockWeight;
        if (blocks is not (null or { Length: 1 }) && blocks.Length != _adapters.Count)
        {
            throw new PeftException("WeightCountMismatch", $"-BlockWeight gives {blocks.Length} strengths by block for {_adapters.Count} adapters.")
            {
                RecommendedAction = "Give one for all adapters, or one for each, in the same order.",
            };
        }

        Each(_models, model =>
        {
            var set = _adapters.Select((adapter, index) => (adapter, index)).Where(entry => ReferenceEquals(entry.adapter.Model, model)).Select(entry => (
                entry.adapter,
                active: new ActiveAdapter(entry.adapter.Name, Weight?[entry.index] ?? 1f) { Modules = blocks is null ? null : ByBlock(model, blocks[blocks.Length == 1 ? 0 : entry.index]) })).ToList();
            var names = set.Count == 0 ? "none" : string.Join(", ", set.Select(static entry => entry.adapter.Name));
            if (ShouldProcess(model.Name, $"Activate {names}"))
            {
                model.SetActive(set.Select(static entry => entry.active)).ForEach(WriteWarning);
                if (!model.AdaptersEnabled)
                {
                    WriteWarning($"The adapters of '{model.Name}' are switched off; Enable-PeftAdapter lets them act.");
                }

                if (PassThru)
                {
                    WriteObject(set.Select(static entry => entry.adapter), enumerateCollection: true);
                }
            }
        });
    }

    private static ModuleStrengths? ByBlock(PeftModel model, object? asked) => asked.Unwrap() switch
    {
        null => null,
        IDictionary table => BlockStrengths.Of(model.Base, (JsonObject)JsonSerializer.SerializeToNode(DatasetRow.Value(table))!),
        string text => BlockStrengths.Of(model.Base, Numbers(text.Split(','))),
        IEnumerable several => BlockStrengths.Of(model.Base, Numbers(several.Cast<object?>().Select(static entry => Convert.ToString(entry.Unwrap(), CultureInfo.InvariantCulture)))),
        var other => throw NoStrengths(other.ToString()),
    };

    private static float[] Numbers(IEnumerable<string?> texts) =>
        [.. texts.Select(static text => float.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out var number) ? number : throw NoStrengths(text))];

    private static PeftException NoStrengths(string? text) => new("BlockStrengthsInvalid", $"'{text}' says no strengths by block.")
    {
        Target = nameof(BlockWeight),
        RecommendedAction = "Give numbers with commas between them, or a table such as @{ down = 0.5; mid = 1; up = 1 }.",
    };
}
