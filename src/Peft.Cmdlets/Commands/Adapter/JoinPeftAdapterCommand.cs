using System.Management.Automation;
using Peft.Adapters.Combination;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>Join-PeftAdapter: makes one new adapter of several.</summary>
[Cmdlet(VerbsCommon.Join, "PeftAdapter", SupportsShouldProcess = true, DefaultParameterSetName = AdapterSet)]
[OutputType(typeof(PeftAdapter))]
public sealed class JoinPeftAdapterCommand : AdapterCommand
{
    private readonly List<PeftAdapter> _adapters = [];

    /// <summary>Names of the model's adapters to combine; wildcards are allowed.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterNameCompleter))]
    [ValidateNotNullOrEmpty]
    [Alias("adapters")]
    public string[] AdapterName { get; set; } = [];

    /// <summary>Name of the new adapter; no other of the model may have it.</summary>
    [Parameter(Mandatory = true)]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_name")]
    public string NewName { get; set; } = "";

    /// <summary>Weight of each adapter, in the same order; 1 for all without it. Negative ones subtract.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    [Alias("weights")]
    public double[]? Weight { get; set; }

    /// <summary>How they are combined: the weighted sum of the changes is decomposed (<c>Svd</c>), or one of the others.</summary>
    [Parameter]
    [Alias("combination_type")]
    [EnumSpelling(Names = typeof(CombinationType))]
    [PSDefaultValue(Value = CombinationType.Svd, Help = "Svd")]
    public CombinationType Type { get; set; }

    /// <summary>Share of the values that is kept, for types that prune (TIES, DARE, magnitude).</summary>
    [Parameter]
    [ValidateRange(0.0, 1.0)]
    public double? Density { get; set; }

    /// <summary>Rank of the new adapter where changes are decomposed; without it the largest of the parts.</summary>
    [Parameter]
    [Alias("svd_rank")]
    [ValidateRange(1, int.MaxValue)]
    public int? Rank { get; set; }

    /// <summary>Quantile at which the values of a decomposition are cut off.</summary>
    [Parameter]
    [Alias("svd_clamp")]
    [ValidateRange(0.0, 1.0)]
    public double? Clamp { get; set; }

    /// <summary>How TIES elects the sign of a value: by the sum, or by the number of adapters.</summary>
    [Parameter]
    [Alias("majority_sign_method")]
    [PSDefaultValue(Value = MajoritySign.Total, Help = "Total")]
    public MajoritySign MajoritySign { get; set; }

    /// <summary>Repeats what DARE drops exactly; without it that is drawn anew each time.</summary>
    [Parameter]
    public ulong? Seed { get; set; }

    /// <inheritdoc/>
    protected override void Process() => _adapters.AddRange(Chosen(AdapterName));

    /// <inheritdoc/>
    protected override void End()
    {
        foreach (var parts in _adapters.GroupBy(static adapter => adapter.Model))
        {
            var names = parts.Select(static adapter => adapter.Name).ToArray();
            if (ShouldProcess(parts.Key.Name, $"Combine {string.Join(", ", names)} into '{NewName}'"))
            {
                WriteObject(Run(output => parts.Key.CombineAdapters(names, Weight ?? [.. names.Select(static _ => 1.0)], NewName, new CombinationOptions
                {
                    Type = Type,
                    Density = Density,
                    Rank = Rank,
                    Clamp = Clamp,
                    MajoritySign = MajoritySign,
                    Seed = Seed,
                }, output.Cancellation)));
            }
        }
    }
}
