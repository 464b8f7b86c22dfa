namespace Peft.Build;

/// <summary>The folders of the checkout that this program was built in.</summary>
internal static class Checkout
{
    /// <summary>The top folder.</summary>
    public static string Root => RepositoryRoot.Folder;

    /// <summary>Where everything that is made and not committed goes.</summary>
    public static string Artifacts => Path.Combine(Root, "artifacts");

    /// <summary>A path below the top folder.</summary>
    public static string At(params string[] parts) => Path.Combine([Root, .. parts]);
}

/// <summary>Something that stops a task, in a sentence for the person who started it.</summary>
internal sealed class BuildException(string message) : Exception(message);
