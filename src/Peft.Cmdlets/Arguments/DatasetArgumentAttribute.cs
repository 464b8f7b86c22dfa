using System.Collections;
using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Training.Data;

namespace Peft.Cmdlets.Arguments;

/// <summary>Lets a parameter take a data set by the path of its file, or as rows: what Import-TrainingDataset would make of them without further parameters.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class DatasetArgumentAttribute : ArgumentTransformationAttribute
{
    /// <inheritdoc/>
    public override object? Transform(EngineIntrinsics engineIntrinsics, object? inputData)
    {
        try
        {
            return inputData.Unwrap() switch
            {
                TrainingDataset or null => inputData,
                PeftModel or PeftAdapter or AdapterConfig => throw new PeftException(
                    "DatasetRowInvalid", $"{ConfigArgumentAttribute.Describe(inputData)} stands where a data set is expected: the model comes down the pipeline, then follow -Config and -Dataset.")
                {
                    RecommendedAction = "Write it so: $model | Invoke-LoraTraining $config $data",
                },
                string path => TrainingDataset.FromFile(engineIntrinsics.SessionState.Path.GetUnresolvedProviderPathFromPSPath(path)),
                FileInfo file => TrainingDataset.FromFile(file.FullName),
                IDictionary row => TrainingDataset.FromRows([DatasetRow.From(new PSObject(row))]),
                IEnumerable rows when rows.Cast<object?>().ToList() is { Count: > 0 } list && list.TrueForAll(static row => row.Unwrap() is not (null or TrainingDataset or FileInfo)) =>
                    TrainingDataset.FromRows(list.Select(static row => DatasetRow.From(PSObject.AsPSObject(row)))),
                PSCustomObject => TrainingDataset.FromRows([DatasetRow.From((PSObject)inputData!)]),
                _ => inputData,
            };
        }
        catch (Exception error) when (error is PeftException or IOException or UnauthorizedAccessException or SessionStateException)
        {
            throw new ArgumentTransformationMetadataException(error.Message, error);
        }
    }
}
