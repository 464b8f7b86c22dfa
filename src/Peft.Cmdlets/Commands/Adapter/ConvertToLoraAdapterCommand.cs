using System.Management.Automation;
using Peft.Adapters.Conversion;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>ConvertTo-LoraAdapter: makes a LoRA adapter of an adapter of another method, or rank, or of the difference between two models.</summary>
[Cmdlet(VerbsData.ConvertTo, "LoraAdapter", SupportsShouldProcess = true, DefaultParameterSetName = AdapterSet)]
[OutputType(typeof(PeftAdapter))]
public sealed class ConvertToLoraAdapterCommand : AdapterCommand
{
    /// <summary>Name of the parameter set that takes a second model.</summary>
    private const string DifferenceSet = "Difference";

    /// <summary>Names of the model's adapters to convert; wildcards are allowed.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterNameCompleter))]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_name")]
    public string[] AdapterName { get; set; } = [];

    /// <summary>The model before the training of the other one; a loaded model's name does as well.</summary>
    [Parameter(Mandatory = true, ParameterSetName = DifferenceSet, ValueFromPipeline = true)]
    [ModelArgument]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    public PeftModel BaseModel { get; set; } = null!;

    /// <summary>A model that was trained in full from the base: the adapter holds the difference. It stays as it is.</summary>
    [Parameter(Mandatory = true, ParameterSetName = DifferenceSet)]
    [ModelArgument]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    public PeftModel TunedModel { get; set; } = null!;

    /// <summary>Name of the new adapter; no other of the model may have it. Without it the adapter's own name with <c>-lora</c> behind it, and <c>difference</c> for that of two models.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public string? NewName { get; set; }

    /// <summary>Rank of every layer's factors: the nearest change of that rank is taken.</summary>
    [Parameter]
    [ValidateRange(1, int.MaxValue)]
    public int? Rank { get; set; }

    /// <summary>Rank of the factors of convolutions of several taps; without it <c>-Rank</c>.</summary>
    [Parameter(ParameterSetName = DifferenceSet)]
    [ValidateRange(1, int.MaxValue)]
    public int? ConvolutionRank { get; set; }

    /// <summary>Share of each layer's squared singular values to keep, above 0 and up to 1: each layer has the smallest rank for it. Without it and <c>-Rank</c> a LoRA adapter is taken whole, and 0.99 of any other change.</summary>
    [Parameter]
    [ValidateRange(0.0, 1.0)]
    public double? Energy { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        if (ParameterSetName == DifferenceSet)
        {
            if (ShouldProcess(BaseModel.Name, $"Extract what '{TunedModel.Name}' learnt as an adapter"))
            {
                Show(Run(output =>
                {
                    using var other = TunedModel.Acquire("extracting an adapter");
                    return AdapterConversion.Extract(BaseModel, TunedModel.Base, NewName ?? "difference", Options(output));
                }));
            }

            return;
        }

        Each(Chosen(AdapterName), adapter =>
        {
            var name = NewName ?? $"{adapter.Name}-lora";
            if (ShouldProcess(adapter.Model.Name, $"Convert '{adapter.Name}' into the LoRA adapter '{name}'"))
            {
                Show(Run(output => AdapterConversion.ToLora(adapter.Model, adapter.Name, name, Options(output))));
            }
        });
    }

    private void Show(PeftAdapter adapter)
    {
        WriteLine($"{adapter.Name}: {adapter.Conversion}");
        WriteObject(adapter);
    }

    private ConversionOptions Options(WorkOutput output) => new()
    {
        Rank = Rank,
        ConvolutionRank = ConvolutionRank,
        Energy = Energy,
        Cancellation = output.Cancellation,
        OnProgress = (done, all) => output.WriteProgress(new ProgressRecord(0, "Decomposing changes of weights", $"{done} of {all}")
        {
            PercentComplete = 100 * done / all,
            RecordType = done == all ? ProgressRecordType.Completed : ProgressRecordType.Processing,
        }),
    };
}
