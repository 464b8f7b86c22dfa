using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Pipeline;
using Peft.Quantization;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>Compress-PeftModel: quantises the weights of a loaded model in place.</summary>
[Cmdlet(VerbsData.Compress, "PeftModel", SupportsShouldProcess = true)]
[OutputType(typeof(PeftModel))]
public sealed class CompressPeftModelCommand : ModelCommand
{
    /// <summary>How the weights of linear layers are quantised: what New-QuantizationConfig makes, or a table with the same names. Without it, and without a switch, to four bits of type nf4 with scales quantised in turn.</summary>
    [Parameter(Position = 0)]
    [Alias("quantization_config")]
    [QuantizationArgument]
    public QuantizationConfig? Quantization { get; set; }

    /// <summary>Quantises to four bits with the defaults of New-QuantizationConfig.</summary>
    [Parameter]
    [Alias("load_in_4bit")]
    public SwitchParameter LoadIn4Bit { get; set; }

    /// <summary>Quantises to eight bits (LLM.int8) with the defaults of New-QuantizationConfig.</summary>
    [Parameter]
    [Alias("load_in_8bit")]
    public SwitchParameter LoadIn8Bit { get; set; }

    /// <inheritdoc/>
    protected override void Begin()
    {
        Quantization = QuantizationArgumentAttribute.Chosen(Quantization, LoadIn4Bit, LoadIn8Bit)
            ?? new QuantizationConfig { LoadIn4Bit = true, QuantType = FourBitType.NF4, UseDoubleQuant = true };
    }

    /// <inheritdoc/>
    protected override void Process()
    {
        if (ShouldProcess(Model.Name, "Quantise the weights for good"))
        {
            var before = Model.MemoryBytes;
            Run(output =>
            {
                var progress = new ProgressLine(output, $"Quantising '{Model.Name}'");
                var layers = Model.Quantize(Quantization!, (done, total) => progress.Show(done, total, FormattableString.Invariant($"{done} of {total} linear layers")), output.Cancellation);
                progress.Complete();
                output.WriteVerbose(FormattableString.Invariant($"{layers} linear layers are quantised ({Model.Quantization}): {before / 1e6:N0} MB became {Model.MemoryBytes / 1e6:N0} MB."));
                if (ModelQuantizer.UnquantizedExperts(Model.Base) is { } left)
                {
                    output.WriteWarning(left);
                }
            });
            WriteObject(Model);
        }
    }
}
