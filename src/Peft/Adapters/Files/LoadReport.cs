namespace Peft.Adapters.Files;

/// <summary>What the user should know about an adapter that was added or loaded although it was no error.</summary>
/// <param name="Missing">Keys the file should have had; these parameters kept their starting values.</param>
/// <param name="Unexpected">Keys of the file that belong to nothing.</param>
/// <param name="Messages">Sentences for a person, the keys above among them.</param>
public sealed record LoadReport(IReadOnlyList<string> Missing, IReadOnlyList<string> Unexpected, IReadOnlyList<string> Messages)
{
    /// <inheritdoc/>
    public override string ToString() => string.Join(" ", Messages);
}
