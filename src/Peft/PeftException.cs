namespace Peft;

/// <summary>
/// An error that Peft recognised itself: its message says what was wrong and where, <see cref="RecommendedAction"/> what to do.
/// The cmdlets turn it into an error record under the same id.
/// </summary>
public class PeftException : Exception
{
    /// <summary>Creates an error.</summary>
    /// <param name="errorId">A stable identifier in PascalCase, such as <c>SafetensorsHeaderTooLong</c>; scripts compare it.</param>
    /// <param name="message">What was wrong and where.</param>
    /// <param name="innerException">What was thrown underneath, if anything.</param>
    public PeftException(string errorId, string message, Exception? innerException = null)
        : base(VisibleText.Of(message), innerException) => ErrorId = errorId;

    /// <summary>A stable identifier in PascalCase that scripts can compare.</summary>
    public string ErrorId { get; }

    /// <summary>What the error is about (a path, a tensor's name, a module's path), or null.</summary>
    public object? Target { get; init; }

    /// <summary>What to do about it in one sentence, or null where the message says it. Default: what helps against every error of this id.</summary>
    public string? RecommendedAction
    {
        get => (field ?? RecommendedActions.For(ErrorId)) is { } action ? VisibleText.Of(action) : null;
        init;
    }
}

/// <summary>
/// Peft knows that this family, method, schedule, objective, format or option exists, or never heard of it, and in either case has no code for it.
/// </summary>
public class NotSupportedByPeftException : PeftException
{
    /// <summary>Creates an error.</summary>
    /// <param name="errorId">A stable identifier in PascalCase, such as <c>ModelFamilyNotSupported</c>.</param>
    /// <param name="message">What isn't supported and where it was asked for.</param>
    /// <param name="innerException">What was thrown underneath, if anything.</param>
    public NotSupportedByPeftException(string errorId, string message, Exception? innerException = null)
        : base(errorId, message, innerException)
    {
    }
}
