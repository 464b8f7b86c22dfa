using System.Collections;
using System.Globalization;
using System.Management.Automation;
using Peft.Cmdlets.Arguments;
using Peft.Models;
using Peft.Quantization;
using static TorchSharp.torch;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>What a model's weights will take, by its structure, beside what they may take.</summary>
internal static class MemoryBudget
{
    /// <summary>A table of the model's parts, the device they go to and what they take.</summary>
    /// <param name="path">The model's folder.</param>
    /// <param name="options">How it will be loaded.</param>
    /// <param name="quantization">How it will be quantised; null where it stays as it is.</param>
    /// <param name="budget">Bytes by device: <c>cpu</c>, or the number of a GPU.</param>
    /// <exception cref="PeftException"><c>MaxMemoryExceeded</c>, <c>MaxMemoryInvalid</c>.</exception>
    public static string Check(string path, LoadOptions options, QuantizationConfig? quantization, IDictionary budget)
    {
        using var model = ModelLoader.Load(path, options with { StructureOnly = true });
        var packed = quantization is null ? [] : new ModelQuantizer(quantization).Targets(model).Select(static layer => layer.Weight).ToHashSet();
        var stored = model.Config.String("dtype") ?? model.Config.String("torch_dtype");
        var isHalf = options.DataType is { } type ? type is ScalarType.BFloat16 or ScalarType.Float16 : stored is "bfloat16" or "float16";
        double plain = isHalf ? 2 : 4;
        var device = options.Device is { type: TorchSharp.DeviceType.CUDA } gpu ? gpu.index.ToString(CultureInfo.InvariantCulture) : "cpu";
        var parts = model.NamedParameters().Where(static named => named.Parameter.IsOwner)
            .GroupBy(static named => string.Join('.', named.Path.Split('.').TakeWhile(static part => !part.All(char.IsAsciiDigit)).Take(2)))
            .Select(part => (Name: part.Key, Bytes: part.Sum(named => (double)named.Parameter.Count * (packed.Contains(named.Parameter) ? BytesOf(quantization!) : plain)))).ToArray();
        var total = parts.Sum(static part => part.Bytes);
        var most = Most(budget, device);
        if (total > most)
        {
            throw new PeftException("MaxMemoryExceeded", FormattableString.Invariant($"The weights take {total / 1e9:F2} GB, but on '{device}' they may take {most / 1e9:F2} GB.")) { Target = path };
        }

        var width = parts.Max(static part => part.Name.Length);
        return string.Join(Environment.NewLine, parts.Select(part => FormattableString.Invariant($"{part.Name.PadRight(width)}  {device}  {part.Bytes / 1e6,10:N1} MB"))
            .Append(FormattableString.Invariant($"{"total".PadRight(width)}  {device}  {total / 1e6,10:N1} MB{(double.IsFinite(most) ? FormattableString.Invariant($" of {most / 1e6:N1} MB") : "")}")));
    }

    /// <summary>A byte, or half of one with a float32 for each block of four-bit numbers, or a byte for it where scales are quantised in turn.</summary>
    private static double BytesOf(QuantizationConfig config) =>
        config.LoadIn8Bit ? 1 : 0.5 + ((config.UseDoubleQuant ? 1 + (4.0 / 256) : 4) / config.BlockSize);

    private static double Most(IDictionary budget, string device)
    {
        var found = budget.Cast<DictionaryEntry>().FirstOrDefault(entry => string.Equals($"{entry.Key}", device, StringComparison.OrdinalIgnoreCase)).Value;
        try
        {
            return found?.Unwrap() switch
            {
                null => double.PositiveInfinity,
                string text => Convert.ToDouble(LanguagePrimitives.ConvertTo<long>(text.Replace("i", "", StringComparison.OrdinalIgnoreCase).Trim()), CultureInfo.InvariantCulture),
                var number => Convert.ToDouble(number, CultureInfo.InvariantCulture),
            };
        }
        catch (Exception error) when (error is PSInvalidCastException or FormatException or InvalidCastException or OverflowException)
        {
            throw new PeftException("MaxMemoryInvalid", $"'{found}' is no amount of memory.", error) { Target = found };
        }
    }
}
