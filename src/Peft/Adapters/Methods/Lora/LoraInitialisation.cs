namespace Peft.Adapters.Methods.Lora;

/// <summary>How LoRA's factors start.</summary>
public enum LoraInitialisation
{
    /// <summary>A uniform in ±1/√in, B zero: training starts from the base's output (<c>true</c>).</summary>
    Zero,

    /// <summary>A and B both uniform, so that the output differs from the start; for tests (<c>false</c>).</summary>
    Random,

    /// <summary>A normal with standard deviation 1/rank, B zero (<c>gaussian</c>).</summary>
    Gaussian,
}

/// <summary>The initialisations by PEFT's names.</summary>
internal static class LoraInitialisations
{
    private static readonly string[] s_variants = ["olora", "pissa", "eva", "corda", "loftq", "orthogonal", "lora_ga", "mica"];

    /// <summary>Reads a name.</summary>
    /// <exception cref="PeftException"><c>InitialisationUnknown</c>.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>LoraVariantNotSupported</c>.</exception>
    public static LoraInitialisation Parse(string name) => name.ToUpperInvariant() switch
    {
        "TRUE" => LoraInitialisation.Zero,
        "FALSE" => LoraInitialisation.Random,
        "GAUSSIAN" => LoraInitialisation.Gaussian,
        _ when Array.Exists(s_variants, variant => name.StartsWith(variant, StringComparison.OrdinalIgnoreCase)) =>
            throw new NotSupportedByPeftException("LoraVariantNotSupported", $"LoRA with init_lora_weights = '{name}' is a variant that is not supported.") { Target = "init_lora_weights" },
        _ => throw new PeftException("InitialisationUnknown", $"'{name}' is no initialisation of LoRA; init_lora_weights can be true, false or gaussian.") { Target = "init_lora_weights" },
    };
}
