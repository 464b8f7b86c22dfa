using System.Management.Automation;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Quantization;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>New-QuantizationConfig: describes how a model's linear layers are quantised, by BitsAndBytesConfig's fields; nothing is loaded or changed.</summary>
[Cmdlet(VerbsCommon.New, "QuantizationConfig")]
[OutputType(typeof(QuantizationConfig))]
public sealed class NewQuantizationConfigCommand : PeftCmdlet
{
    /// <summary>Holds weights as four-bit numbers, by blocks.</summary>
    [Parameter]
    [Alias("load_in_4bit")]
    public SwitchParameter LoadIn4Bit { get; set; }

    /// <summary>Holds weights as eight-bit integers, by rows, and quantises inputs with them but for their outlier columns (LLM.int8).</summary>
    [Parameter]
    [Alias("load_in_8bit")]
    public SwitchParameter LoadIn8Bit { get; set; }

    /// <summary>The four-bit type: <c>nf4</c> is made for weights that are normally distributed, <c>fp4</c> is a small floating-point number.</summary>
    [Parameter]
    [Alias("bnb_4bit_quant_type")]
    [EnumSpelling(Null = "fp4")]
    [ValidateSet("fp4", "nf4")]
    [PSDefaultValue(Value = "fp4", Help = "fp4")]
    public string QuantType { get; set; } = "fp4";

    /// <summary>The type in which products with quantised weights are formed: <c>float32</c>, <c>bfloat16</c> or <c>float16</c>, with <c>torch.</c> in front or without.</summary>
    [Parameter]
    [Alias("bnb_4bit_compute_dtype")]
    [EnumSpelling(Null = "float32")]
    [ArgumentCompleter(typeof(ComputeTypeCompleter))]
    [ValidateNotNullOrEmpty]
    [PSDefaultValue(Value = "float32", Help = "float32")]
    public string ComputeType { get; set; } = "float32";

    /// <summary>Numbers of a four-bit block, which share a scale: a power of two from 32 to 4096. More of them take less memory and round more.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(BlockSizeCompleter))]
    [PSDefaultValue(Value = 64, Help = "64")]
    public int BlockSize { get; set; } = 64;

    /// <summary>Quantises the scales of the blocks in turn, which saves about 0.4 bits a weight.</summary>
    [Parameter]
    [Alias("bnb_4bit_use_double_quant")]
    public SwitchParameter UseDoubleQuant { get; set; }

    /// <summary>Modules that stay as they are, by the end of their path, by the path above them, or by a regular expression that their path begins with, up to a dot. Without it the model's heads.</summary>
    [Parameter]
    [Alias("llm_int8_skip_modules")]
    public string[]? SkipModule { get; set; }

    /// <summary>The magnitude from which on an input's column isn't quantised with eight-bit weights; four-bit ones don't ask for it.</summary>
    [Parameter]
    [Alias("llm_int8_threshold")]
    [PSDefaultValue(Value = 6.0, Help = "6.0")]
    public double Threshold { get; set; } = 6;

    /// <summary>Taken because BitsAndBytesConfig takes it; it says nothing here.</summary>
    [Parameter]
    [Alias("bnb_4bit_quant_storage")]
    [ArgumentCompleter(typeof(StorageTypeCompleter))]
    public object? QuantStorage { get; set; }

    /// <summary>Keeps some modules on the CPU in float32. Not supported: it ends in the error QuantizationNotSupported.</summary>
    [Parameter]
    [Alias("llm_int8_enable_fp32_cpu_offload")]
    public SwitchParameter EnableCpuOffload { get; set; }

    /// <summary>Keeps eight-bit weights in float16 as well. Not supported: it ends in the error QuantizationNotSupported.</summary>
    [Parameter]
    [Alias("llm_int8_has_fp16_weight")]
    public SwitchParameter HasFloat16Weight { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        WriteObject(QuantizationArgumentAttribute.Config(MyInvocation.BoundParameters));
    }
}
