using Peft.Adapters.Files;
using Peft.Adapters.Methods.IA3;
using Peft.Adapters.Methods.LoHa;
using Peft.Adapters.Methods.LoKr;
using Peft.Adapters.Methods.Lora;

namespace Peft.Adapters.Methods;

/// <summary>The methods there are, by PEFT's name: one line each.</summary>
public static class AdapterMethods
{
    private static readonly Dictionary<string, Func<ConfigReader, AdapterConfig>> s_readers = new(StringComparer.Ordinal)
    {
        ["IA3"] = IA3Config.Read,
        ["LOHA"] = LoHaConfig.Read,
        ["LOKR"] = LoKrConfig.Read,
        ["LORA"] = LoraConfig.Read,
    };

    /// <summary>PEFT's names of the methods there are.</summary>
    public static IReadOnlyCollection<string> Names => s_readers.Keys;

    internal static AdapterConfig Read(string peftType, ConfigReader reader) => s_readers.TryGetValue(peftType, out var read)
        ? read(reader)
        : throw new NotSupportedByPeftException("MethodNotSupported", $"The adapter method '{peftType}' is not supported. Supported are {string.Join(", ", s_readers.Keys)}.")
        {
            Target = peftType,
        };
}
