namespace Peft.Files;

/// <summary>Errors that every reader of a file shares.</summary>
internal static class FileErrors
{
    /// <summary>The error for a file that couldn't be opened or read.</summary>
    /// <param name="path">The file.</param>
    /// <param name="error">What the system said.</param>
    /// <returns>An error with id <c>FileNotFound</c> or <c>FileUnreadable</c>.</returns>
    public static PeftException Unreadable(string path, Exception error) => error is FileNotFoundException or DirectoryNotFoundException
        ? new PeftException("FileNotFound", $"There is no file '{path}'.", error) { Target = path, RecommendedAction = "Check the path." }
        : new PeftException("FileUnreadable", $"'{path}' could not be read: {error.Message}", error)
        {
            Target = path,
            RecommendedAction = "Check that it is a file, that you may read it and that no other program holds it open.",
        };
}
