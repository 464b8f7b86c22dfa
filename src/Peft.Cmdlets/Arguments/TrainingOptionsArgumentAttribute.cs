using System.Collections;
using System.Management.Automation;
using System.Text.Json;
using Peft.Training;

namespace Peft.Cmdlets.Arguments;

/// <summary>Lets <c>-Options</c> take the path of the file that a training saved, or a table with the names that stand in it.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class TrainingOptionsArgumentAttribute : ArgumentTransformationAttribute
{
    /// <inheritdoc/>
    public override object? Transform(EngineIntrinsics engineIntrinsics, object? inputData)
    {
        var value = inputData.Unwrap();
        if (value is not (string or IDictionary))
        {
            return inputData;
        }

        try
        {
            if (value is not string path)
            {
                return TrainingOptions.FromJson(JsonSerializer.Serialize(DatasetRow.Value(value)), "the given table");
            }

            var full = engineIntrinsics.SessionState.Path.GetUnresolvedProviderPathFromPSPath(path);
            return TrainingOptions.FromFile(Directory.Exists(full) ? Path.Combine(full, TrainingOptions.FileName) : full);
        }
        catch (Exception error) when (error is PeftException or IOException or SessionStateException)
        {
            throw new ArgumentTransformationMetadataException(error.Message, error);
        }
    }
}
