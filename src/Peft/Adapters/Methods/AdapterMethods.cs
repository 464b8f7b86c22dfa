using Peft.Adapters.Methods.AdaLora;
using Peft.Adapters.Methods.Delora;
using Peft.Adapters.Methods.IA3;
using Peft.Adapters.Methods.LoHa;
using Peft.Adapters.Methods.LoKr;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.Miss;
using Peft.Adapters.Methods.PrefixTuning;
using Peft.Adapters.Methods.PromptTuning;
using Peft.Adapters.Methods.PTuning;
using Peft.Adapters.Methods.Shira;
using Peft.Adapters.Methods.Vera;

namespace Peft.Adapters.Methods;

/// <summary>The methods there are, by PEFT's name: one line each.</summary>
public static class AdapterMethods
{
    private static readonly Dictionary<string, Type> s_configs = new(StringComparer.Ordinal)
    {
        ["ADALORA"] = typeof(AdaLoraConfig),
        ["DELORA"] = typeof(DeloraConfig),
        ["IA3"] = typeof(IA3Config),
        ["LOHA"] = typeof(LoHaConfig),
        ["LOKR"] = typeof(LoKrConfig),
        ["LORA"] = typeof(LoraConfig),
        ["MISS"] = typeof(MissConfig),
        ["PREFIX_TUNING"] = typeof(PrefixTuningConfig),
        ["PROMPT_TUNING"] = typeof(PromptTuningConfig),
        ["P_TUNING"] = typeof(PTuningConfig),
        ["SHIRA"] = typeof(ShiraConfig),
        ["VERA"] = typeof(VeraConfig),
    };

    /// <summary>PEFT's names of the methods there are.</summary>
    public static IReadOnlyCollection<string> Names => s_configs.Keys;

    /// <summary>Type of a method's configuration.</summary>
    /// <param name="peftType">PEFT's name of the method.</param>
    /// <exception cref="NotSupportedByPeftException"><c>MethodNotSupported</c>.</exception>
    public static Type ConfigOf(string peftType) => s_configs.GetValueOrDefault(peftType)
        ?? throw new NotSupportedByPeftException("MethodNotSupported", $"The adapter method '{peftType}' is not supported. Supported are {string.Join(", ", s_configs.Keys)}.")
        {
            Target = peftType,
        };
}
