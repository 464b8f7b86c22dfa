using System.Collections;
using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Training.Data;

namespace Peft.Cmdlets.Arguments;

/// <summary>Lets a parameter take an adapter's configuration by the path of a file or folder, or as a table with the names that New-PeftConfig takes; without a <c>peft_type</c> it is LoRA's.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class ConfigArgumentAttribute : ArgumentTransformationAttribute
{
    private const string MethodKey = "peft_type";

    /// <inheritdoc/>
    public override object? Transform(EngineIntrinsics engineIntrinsics, object? inputData)
    {
        try
        {
            return inputData.Unwrap() switch
            {
                // Of several configurations each by itself; rows of a data set, which may stand in this place, stay as they are.
                object[] several when several.Length > 0 && several.All(static each => each.Unwrap() is AdapterConfig or string || (each.Unwrap() is IDictionary table && !IsRow(table))) =>
                    several.Select(each => Transform(engineIntrinsics, each)).ToArray(),
                string path when engineIntrinsics.SessionState.Path.GetUnresolvedProviderPathFromPSPath(path) is var full => Directory.Exists(full) ? AdapterConfig.FromFolder(full)
                    : full.EndsWith(".json", StringComparison.OrdinalIgnoreCase) ? AdapterConfig.FromFile(full) : inputData,
                IDictionary table => IsRow(table) ? inputData : FromTable(table),
                PeftModel or PeftAdapter => throw new PeftException("AdapterConfigInvalid", $"{Describe(inputData)} stands where an adapter's configuration is expected; it comes down the pipeline.")
                {
                    RecommendedAction = "Write it so: $model | Invoke-LoraTraining $config $data",
                },
                _ => inputData,
            };
        }
        catch (Exception error) when (error is PeftException or IOException or UnauthorizedAccessException or RuntimeException)
        {
            throw new ArgumentTransformationMetadataException(error.Message, error);
        }
    }

    /// <summary>Whether a table is a row of a data set, which stands in the same place where an adapter is trained further.</summary>
    private static bool IsRow(IDictionary table) =>
        table.Keys.Cast<object>().Any(static key => Enum.GetNames<ColumnRole>().Contains(key.ToString(), StringComparer.OrdinalIgnoreCase));

    /// <summary>What a value is, for a person who put it in another's place.</summary>
    internal static string Describe(object? value) => value.Unwrap() switch
    {
        PeftModel model => $"The model '{model.Name}'",
        PeftAdapter adapter => $"The adapter '{adapter.Name}'",
        TrainingDataset data => $"The data set of '{data.Origin}'",
        AdapterConfig config => $"A configuration for {config.PeftType}",
        _ => "Something else",
    };

    private static object? FromTable(IDictionary table)
    {
        using var shell = PowerShell.Create(RunspaceMode.CurrentRunspace);
        shell.AddCommand("Peft\\New-PeftConfig").AddParameter("ErrorAction", ActionPreference.Stop);
        var method = "LORA";
        foreach (DictionaryEntry entry in table)
        {
            if (MethodKey.Equals(entry.Key.ToString(), StringComparison.OrdinalIgnoreCase) || "Method".Equals(entry.Key.ToString(), StringComparison.OrdinalIgnoreCase))
            {
                method = entry.Value.Unwrap()?.ToString() ?? method;
            }
            else
            {
                shell.AddParameter(entry.Key.ToString(), entry.Value);
            }
        }

        return shell.AddParameter("Method", method).Invoke().FirstOrDefault();
    }
}
