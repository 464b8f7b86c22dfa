using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;

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
    public string[] AdapterName { get; set; } = [];

    /// <summary>Strength of each adapter, in the same order; 1 is as trained.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public float[]? Weight { get; set; }

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

        Each(_models, model =>
        {
            var set = _adapters.Select((adapter, index) => (adapter, active: new Models.ActiveAdapter(adapter.Name, Weight?[index] ?? 1f)))
                .Where(entry => ReferenceEquals(entry.adapter.Model, model)).ToList();
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
}
