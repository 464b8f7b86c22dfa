using System.Collections;
using System.Management.Automation;
using System.Reflection;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Cmdlets.Commands.Model;
using Peft.Quantization;

namespace Peft.Cmdlets.Arguments;

/// <summary>Lets a parameter take a quantisation as a table with the names that New-QuantizationConfig takes, BitsAndBytesConfig's among them.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class QuantizationArgumentAttribute : ArgumentTransformationAttribute
{
    /// <summary>BitsAndBytesConfig's name of each field, by itself and by the parameter's name; a field that it lacks has the parameter's in small letters.</summary>
    private static readonly Dictionary<string, string> s_fields = typeof(NewQuantizationConfigCommand).GetProperties()
        .Where(static property => property.IsDefined(typeof(ParameterAttribute)))
        .Select(static property => (property.Name, Field: property.GetCustomAttribute<AliasAttribute>()?.AliasNames[0] ?? property.Name.ToLowerInvariant()))
        .SelectMany(static entry => new[] { (entry.Name, entry.Field), (Name: entry.Field, entry.Field) })
        .DistinctBy(static entry => entry.Name, StringComparer.OrdinalIgnoreCase)
        .ToDictionary(static entry => entry.Name, static entry => entry.Field, StringComparer.OrdinalIgnoreCase);

    /// <inheritdoc/>
    public override object? Transform(EngineIntrinsics engineIntrinsics, object? inputData)
    {
        try
        {
            return inputData.Unwrap() switch
            {
                IDictionary table => FromTable(table),
                string text => throw new PeftException("QuantizationInvalid", $"'{text}' describes no quantisation: give what New-QuantizationConfig makes, or a table such as @{{ load_in_4bit = $true; bnb_4bit_quant_type = 'nf4' }}.") { Target = text },
                _ => inputData,
            };
        }
        catch (PeftException error)
        {
            throw new ArgumentTransformationMetadataException(error.Message, error);
        }
    }

    /// <summary>The quantisation of a cmdlet that takes it whole or by the switches <c>-LoadIn4Bit</c> and <c>-LoadIn8Bit</c>; null where nothing asks for one.</summary>
    /// <exception cref="PeftException"><c>ParametersContradict</c>: both say it.</exception>
    internal static QuantizationConfig? Chosen(QuantizationConfig? whole, bool inFourBits, bool inEightBits) => !inFourBits && !inEightBits ? whole
        : whole is null ? QuantizationConfig.FromJson(new JsonObject { ["load_in_4bit"] = inFourBits, ["load_in_8bit"] = inEightBits })
        : throw new PeftException("ParametersContradict", "-Quantization says already how weights are quantised, and -LoadIn4Bit and -LoadIn8Bit say it again.")
        {
            Target = "Quantization",
            RecommendedAction = "Leave the switches out.",
        };

    /// <summary>The configuration that values by name describe; names that are no field's are left to the caller.</summary>
    /// <exception cref="PeftException"><c>QuantizationInvalid</c>, <c>QuantizationNotSupported</c>.</exception>
    internal static QuantizationConfig Config(IEnumerable<KeyValuePair<string, object>> values)
    {
        var document = new JsonObject();
        foreach (var (name, value) in values)
        {
            if (s_fields.TryGetValue(name, out var field))
            {
                document[field] = value.Unwrap() is SwitchParameter given ? given.IsPresent : JsonSerializer.SerializeToNode(DatasetRow.Value(value));
            }
        }

        try
        {
            return QuantizationConfig.FromJson(document);
        }
        catch (Exception error) when (error is InvalidOperationException or FormatException)
        {
            throw new PeftException("QuantizationInvalid", "A field of the quantisation has a value of another kind than it takes.", error);
        }
    }

    /// <summary>A table as config.json keeps it has fields of its own use besides: private ones and the method's name.</summary>
    private static QuantizationConfig FromTable(IDictionary table)
    {
        var values = table.Cast<DictionaryEntry>().Select(static entry => KeyValuePair.Create(entry.Key.ToString()!, entry.Value!))
            .Where(static entry => !entry.Key.StartsWith('_')).ToLookup(static entry => entry.Key.Equals("quant_method", StringComparison.OrdinalIgnoreCase));
        if (values[true].Select(static entry => entry.Value.Unwrap()?.ToString()).FirstOrDefault() is { } method && !method.Equals("bitsandbytes", StringComparison.OrdinalIgnoreCase))
        {
            throw new NotSupportedByPeftException("QuantizationNotSupported", $"Models aren't quantised by {method} here. Those that are quantised already say so in their own files, and are read without -Quantization.") { Target = method };
        }

        return values[false].Select(static entry => entry.Key).FirstOrDefault(static key => !s_fields.ContainsKey(key)) is { } unknown
            ? throw new PeftException("QuantizationInvalid", $"'{unknown}' is no field of a quantisation.{Spelling.DidYouMean(unknown, s_fields.Keys)}") { Target = unknown }
            : Config(values[false]);
    }
}
