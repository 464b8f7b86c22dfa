using Peft.Adapters.Methods.AdaLora;
using Peft.Adapters.Methods.Adamss;
using Peft.Adapters.Methods.AdaptionPrompt;
using Peft.Adapters.Methods.Beft;
using Peft.Adapters.Methods.Boft;
using Peft.Adapters.Methods.C3A;
using Peft.Adapters.Methods.Cartridge;
using Peft.Adapters.Methods.Cpt;
using Peft.Adapters.Methods.Deft;
using Peft.Adapters.Methods.Delora;
using Peft.Adapters.Methods.FourierFT;
using Peft.Adapters.Methods.Frod;
using Peft.Adapters.Methods.Glora;
using Peft.Adapters.Methods.GraLora;
using Peft.Adapters.Methods.Hira;
using Peft.Adapters.Methods.Hra;
using Peft.Adapters.Methods.IA3;
using Peft.Adapters.Methods.Lily;
using Peft.Adapters.Methods.LnTuning;
using Peft.Adapters.Methods.LoHa;
using Peft.Adapters.Methods.LoKr;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.Lycoris;
using Peft.Adapters.Methods.Miss;
using Peft.Adapters.Methods.MultitaskPromptTuning;
using Peft.Adapters.Methods.Oft;
using Peft.Adapters.Methods.Osf;
using Peft.Adapters.Methods.Peanut;
using Peft.Adapters.Methods.Poly;
using Peft.Adapters.Methods.PrefixTuning;
using Peft.Adapters.Methods.PromptTuning;
using Peft.Adapters.Methods.Psoft;
using Peft.Adapters.Methods.PTuning;
using Peft.Adapters.Methods.Pvera;
using Peft.Adapters.Methods.RandLora;
using Peft.Adapters.Methods.Road;
using Peft.Adapters.Methods.Shira;
using Peft.Adapters.Methods.SuperTuning;
using Peft.Adapters.Methods.TextualInversion;
using Peft.Adapters.Methods.TinyLora;
using Peft.Adapters.Methods.TrainableTokens;
using Peft.Adapters.Methods.UniLora;
using Peft.Adapters.Methods.VbLora;
using Peft.Adapters.Methods.Vera;
using Peft.Adapters.Methods.WaveFT;
using Peft.Adapters.Methods.XLora;

namespace Peft.Adapters.Methods;

/// <summary>The methods there are, by PEFT's name: one line each.</summary>
public static class AdapterMethods
{
    private static readonly Dictionary<string, Type> s_configs = new(StringComparer.Ordinal)
    {
        ["ADALORA"] = typeof(AdaLoraConfig),
        ["ADAMSS"] = typeof(AdamssConfig),
        ["ADAPTION_PROMPT"] = typeof(AdaptionPromptConfig),
        ["BEFT"] = typeof(BeftConfig),
        ["BOFT"] = typeof(BoftConfig),
        ["C3A"] = typeof(C3AConfig),
        ["CARTRIDGE"] = typeof(CartridgeConfig),
        ["CPT"] = typeof(CptConfig),
        ["DEFT"] = typeof(DeftConfig),
        ["DELORA"] = typeof(DeloraConfig),
        ["FOURIERFT"] = typeof(FourierFTConfig),
        ["FROD"] = typeof(FrodConfig),
        ["GLORA"] = typeof(GloraConfig),
        ["GRALORA"] = typeof(GraLoraConfig),
        ["HIRA"] = typeof(HiraConfig),
        ["HRA"] = typeof(HraConfig),
        ["IA3"] = typeof(IA3Config),
        ["LILY"] = typeof(LilyConfig),
        ["LN_TUNING"] = typeof(LnTuningConfig),
        ["LOHA"] = typeof(LoHaConfig),
        ["LOKR"] = typeof(LoKrConfig),
        ["LORA"] = typeof(LoraConfig),
        ["LYCORIS"] = typeof(LycorisNetworkConfig),
        ["MISS"] = typeof(MissConfig),
        ["MULTITASK_PROMPT_TUNING"] = typeof(MultitaskPromptTuningConfig),
        ["OFT"] = typeof(OftConfig),
        ["OSF"] = typeof(OsfConfig),
        ["PEANUT"] = typeof(PeanutConfig),
        ["POLY"] = typeof(PolyConfig),
        ["PREFIX_TUNING"] = typeof(PrefixTuningConfig),
        ["PROMPT_TUNING"] = typeof(PromptTuningConfig),
        ["PSOFT"] = typeof(PsoftConfig),
        ["PVERA"] = typeof(PveraConfig),
        ["P_TUNING"] = typeof(PTuningConfig),
        ["RANDLORA"] = typeof(RandLoraConfig),
        ["ROAD"] = typeof(RoadConfig),
        ["SHIRA"] = typeof(ShiraConfig),
        ["SUPERTUNING"] = typeof(SuperTuningConfig),
        ["TEXTUAL_INVERSION"] = typeof(TextualInversionConfig),
        ["TINYLORA"] = typeof(TinyLoraConfig),
        ["TRAINABLE_TOKENS"] = typeof(TrainableTokensConfig),
        ["UNILORA"] = typeof(UniLoraConfig),
        ["VBLORA"] = typeof(VbLoraConfig),
        ["VERA"] = typeof(VeraConfig),
        ["WAVEFT"] = typeof(WaveFTConfig),
        ["XLORA"] = typeof(XLoraConfig),
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
            RecommendedAction = peftType.ToUpperInvariant() switch
            {
                "DORA" => "DoRA is LORA with -UseDora.",
                "RSLORA" => "Rank-stabilised LoRA is LORA with -RankStabilized.",
                "QLORA" => "QLoRA is LORA on a quantised base: Import-PeftModel -LoadIn4Bit.",
                "PISSA" or "OLORA" or "EVA" or "CORDA" or "LOFTQ" => $"It is a way for LORA to start: -Initialization {peftType.ToLowerInvariant()}.",
                "PTUNING" or "P-TUNING" => "PEFT calls it P_TUNING.",
                _ => "Use an adapter of one of the methods that the message names.",
            },
        };
}
