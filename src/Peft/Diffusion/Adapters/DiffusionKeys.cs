using System.Text.RegularExpressions;
using Peft.Adapters.Files;
using Peft.Adapters.Methods.Lycoris;

namespace Peft.Diffusion.Adapters;

/// <summary>Names of tensors in the adapter files of diffusion models, taken apart into a module's name and LyCORIS's key.</summary>
internal static partial class DiffusionKeys
{
    /// <summary>PEFT's name of DoRA's lengths.</summary>
    public const string Magnitude = "lora_magnitude_vector";

    /// <summary>What other writers than LyCORIS put behind a module's name.</summary>
    private static readonly (string Ending, string Key)[] s_endings =
    [
        (".lora_A.weight", "lora_down.weight"), (".lora_B.weight", "lora_up.weight"),
        (".lora_A.default.weight", "lora_down.weight"), (".lora_B.default.weight", "lora_up.weight"),
        (".lora_linear_layer.down.weight", "lora_down.weight"), (".lora_linear_layer.up.weight", "lora_up.weight"),
        (".lora.down.weight", "lora_down.weight"), (".lora.up.weight", "lora_up.weight"),
        ("_lora.down.weight", "lora_down.weight"), ("_lora.up.weight", "lora_up.weight"),
        ($".{Magnitude}.weight", "dora_scale"), ($".{Magnitude}", "dora_scale"), ($".{Magnitude}.default.weight", "dora_scale"),
    ];

    /// <summary>Takes a name apart.</summary>
    /// <returns>The module's name as the file spells it, but for forms of attention that have gone, and the key; null where no key is known.</returns>
    public static (string Module, string Key)? Split(string name)
    {
        var plain = name.StartsWith(AdapterFile.Prefix, StringComparison.Ordinal) ? name[AdapterFile.Prefix.Length..] : name;
        foreach (var (ending, key) in s_endings)
        {
            if (plain.EndsWith(ending, StringComparison.Ordinal))
            {
                return (Modern(plain[..^ending.Length]), key);
            }
        }

        return LycorisModules.Split(plain);
    }

    /// <summary>Until 2023 diffusers kept the layers of attention in processors, and called a text encoder's as it called a UNet's.</summary>
    private static string Modern(string module)
    {
        if (module.Contains(".self_attn.to_", StringComparison.Ordinal))
        {
            return TextProjection().Replace(module, ".self_attn.$1_proj");
        }

        return module.Contains(".processor.", StringComparison.Ordinal) ? Processor().Replace(module, static match => match.Groups[1].Value == "out" ? ".to_out.0" : $".to_{match.Groups[1].Value}") : module;
    }

    [GeneratedRegex(@"\.processor\.to_(q|k|v|out)$", RegexOptions.None, 1000)]
    private static partial Regex Processor();

    [GeneratedRegex(@"\.self_attn\.to_(q|k|v|out)$", RegexOptions.None, 1000)]
    private static partial Regex TextProjection();
}
