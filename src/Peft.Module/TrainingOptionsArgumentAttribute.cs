using System.Management.Automation;
using Peft.Training;

namespace Peft.Module;

/// <summary>Lets <c>-Options</c> take the path of the file that a training saved.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class TrainingOptionsArgumentAttribute : ArgumentTransformationAttribute
{
    /// <inheritdoc/>
    public override object? Transform(EngineIntrinsics engineIntrinsics, object? inputData)
    {
        if (inputData.Unwrap() is not string path)
        {
            return inputData;
        }

        try
        {
            var full = engineIntrinsics.SessionState.Path.GetUnresolvedProviderPathFromPSPath(path);
            return TrainingOptions.FromFile(Directory.Exists(full) ? Path.Combine(full, TrainingOptions.FileName) : full);
        }
        catch (Exception error) when (error is PeftException or IOException or SessionStateException)
        {
            throw new ArgumentTransformationMetadataException(error.Message, error);
        }
    }
}
