using System.Management.Automation;
using System.Runtime.InteropServices;
using System.Security;
using Peft.Adapters.Model;
using Peft.Engine;

namespace Peft.Cmdlets.Pipeline;

/// <summary>Turns exceptions into error records: a stable id, a category, the offending object and what to do about it.</summary>
internal static class ErrorMapping
{
    /// <summary>Endings of error ids and what category they stand for; the first that fits decides.</summary>
    private static readonly (string Ending, ErrorCategory Category)[] s_categories =
    [
        ("OptionInvalid", ErrorCategory.InvalidArgument),
        ("TargetModuleInvalid", ErrorCategory.InvalidArgument),
        ("AdapterNameInvalid", ErrorCategory.InvalidArgument),
        ("ParametersContradict", ErrorCategory.InvalidArgument),
        ("PathNotOnFileSystem", ErrorCategory.InvalidArgument),
        ("TextMissing", ErrorCategory.InvalidArgument),
        ("Unknown", ErrorCategory.InvalidArgument),
        ("NotAFolder", ErrorCategory.InvalidArgument),
        ("NotAFile", ErrorCategory.InvalidArgument),
        ("NotFound", ErrorCategory.ObjectNotFound),
        ("NotCached", ErrorCategory.ObjectNotFound),
        ("NotSupported", ErrorCategory.NotImplemented),
        ("Busy", ErrorCategory.ResourceBusy),
        ("OutOfMemory", ErrorCategory.LimitsExceeded),
        ("Exists", ErrorCategory.ResourceExists),
        ("Unavailable", ErrorCategory.ResourceUnavailable),
        ("Unreadable", ErrorCategory.ReadError),
        ("WriteFailed", ErrorCategory.WriteError),
        ("DiskFull", ErrorCategory.WriteError),
        ("ReadOnly", ErrorCategory.PermissionDenied),
        ("Merged", ErrorCategory.InvalidOperation),
        ("NotLoaded", ErrorCategory.InvalidOperation),
        ("Disposed", ErrorCategory.InvalidOperation),
        ("Invalid", ErrorCategory.InvalidData),
        ("Incomplete", ErrorCategory.InvalidData),
        ("Malformed", ErrorCategory.InvalidData),
        ("Missing", ErrorCategory.InvalidData),
        ("Empty", ErrorCategory.InvalidData),
        ("Truncated", ErrorCategory.InvalidData),
        ("TooLong", ErrorCategory.InvalidData),
        ("Mismatch", ErrorCategory.InvalidData),
    ];

    /// <summary>Whether an exception is for us to turn into a record; PowerShell's own pass through.</summary>
    public static bool IsOurs(Exception error) =>
        error is not (PipelineStoppedException or RuntimeException) && error.GetType().Namespace?.StartsWith("System.Management.Automation", StringComparison.Ordinal) != true;

    /// <summary>The record for an exception.</summary>
    /// <param name="error">What was thrown.</param>
    /// <param name="target">The offending object where the exception names none.</param>
    public static ErrorRecord ToRecord(Exception error, object? target) => error switch
    {
        PeftException peft => Describe(
            new ErrorRecord(peft, peft.ErrorId, CategoryOf(peft), peft.Target ?? target), peft.RecommendedAction),
        FileNotFoundException or DirectoryNotFoundException => Describe(
            new ErrorRecord(error, "PathNotFound", ErrorCategory.ObjectNotFound, target),
            "Relative paths start at $PWD; see that the file is still there."),
        UnauthorizedAccessException or SecurityException => Describe(
            new ErrorRecord(error, "AccessDenied", ErrorCategory.PermissionDenied, target),
            "Choose a path that you may read and write."),
        IOException => Describe(
            new ErrorRecord(error, "FileAccessFailed", error is EndOfStreamException ? ErrorCategory.ReadError : ErrorCategory.ResourceUnavailable, target),
            "See that the disk has room and that no other program holds the file."),
        ArgumentException => Describe(
            new ErrorRecord(error, "ArgumentInvalid", ErrorCategory.InvalidArgument, target),
            "Give another value; Get-Help says what the parameter takes."),
        OutOfMemoryException or ExternalException when EngineErrors.IsOutOfMemory(error) => ToRecord(EngineErrors.OutOfMemory(error), target),
        ExternalException when error.Message.Contains("not implemented for", StringComparison.Ordinal) => Describe(
            new ErrorRecord(error, "EngineTypeNotSupported", ErrorCategory.NotImplemented, target),
            "The engine can't compute this on this device in the type of the model's weights. Import the model with -DataType bfloat16 or float32."),
        ExternalException => Describe(
            new ErrorRecord(error, "EngineFailed", ErrorCategory.InvalidOperation, target),
            "This is libtorch's own message. Please report it with the command."),
        OperationCanceledException => new ErrorRecord(error, "OperationCanceled", ErrorCategory.OperationStopped, target),
        _ => Describe(
            new ErrorRecord(error, "UnexpectedError", ErrorCategory.NotSpecified, target),
            "This is a defect of Peft. Please report it with the command and the output of Get-Error."),
    };

    private static ErrorCategory CategoryOf(PeftException error) => error is NotSupportedByPeftException
        ? ErrorCategory.NotImplemented
        : Array.Find(s_categories, entry => error.ErrorId.EndsWith(entry.Ending, StringComparison.Ordinal)) is { Ending: not null } found
            ? found.Category
            : ErrorCategory.InvalidOperation;

    private static ErrorRecord Describe(ErrorRecord record, string? action)
    {
        if (action is not null)
        {
            record.ErrorDetails = new ErrorDetails(record.Exception.Message) { RecommendedAction = action };
        }

        return record;
    }
}
