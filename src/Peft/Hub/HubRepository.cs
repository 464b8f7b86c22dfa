namespace Peft.Hub;

/// <summary>What a repository on the hub holds.</summary>
public enum HubKind
{
    /// <summary>A model or an adapter.</summary>
    Model,

    /// <summary>A data set.</summary>
    Dataset,
}

/// <summary>A repository on the hub at one of its revisions.</summary>
public sealed record HubRepository
{
    /// <summary>Names a repository.</summary>
    /// <param name="name">Its name, such as <c>owner/model</c>.</param>
    /// <param name="revision">A branch, a tag or a commit.</param>
    /// <param name="kind">What it holds.</param>
    /// <exception cref="PeftException"><c>HubNameInvalid</c>.</exception>
    public HubRepository(string name, string revision = "main", HubKind kind = HubKind.Model)
    {
        ArgumentNullException.ThrowIfNull(name);
        ArgumentNullException.ThrowIfNull(revision);
        if (!IsName(name) || name.Split('/').Length > 2 || !IsName(revision))
        {
            throw new PeftException("HubNameInvalid", $"'{name}' at revision '{revision}' is not a name on the hub.")
            {
                Target = name,
                RecommendedAction = "Give 'owner/model'; a folder on disk is given by -Path.",
            };
        }

        Name = name;
        Revision = revision;
        Kind = kind;
    }

    /// <summary>Its name, such as <c>owner/model</c>.</summary>
    public string Name { get; }

    /// <summary>A branch, a tag or a commit.</summary>
    public string Revision { get; }

    /// <summary>What it holds.</summary>
    public HubKind Kind { get; }

    /// <summary>Whether a text can be a repository's name with an owner, as <c>owner/model</c> is.</summary>
    public static bool IsOwnedName(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        return IsName(text) && text.Split('/') is [{ Length: > 0 } owner, { Length: > 0 } name] && owner[0] != '.' && name[0] != '.';
    }

    /// <summary>Its folder's name in the cache.</summary>
    internal string FolderName => (Kind == HubKind.Dataset ? "datasets--" : "models--") + Name.Replace("/", "--", StringComparison.Ordinal);

    /// <summary>Where the hub lists its files, below the hub's address.</summary>
    internal string ListPath => $"api/{(Kind == HubKind.Dataset ? "datasets" : "models")}/{Name}/revision/{Uri.EscapeDataString(Revision)}?blobs=true";

    /// <summary>Its page, below the hub's address.</summary>
    internal string PagePath => Kind == HubKind.Dataset ? $"datasets/{Name}" : Name;

    /// <summary>Where one of its files is, below the hub's address.</summary>
    internal string FilePath(string commit, string file) => $"{PagePath}/resolve/{commit}/{string.Join('/', file.Split('/').Select(Uri.EscapeDataString))}";

    /// <inheritdoc/>
    public override string ToString() => Revision == "main" ? Name : $"{Name} ({Revision})";

    /// <summary>Whether a path made of this stays inside the cache: no root, no way up.</summary>
    internal static bool IsName(string name) => name.Length > 0 && name[0] != '/' && !name.Contains("..", StringComparison.Ordinal)
        && name.All(static letter => char.IsAsciiLetterOrDigit(letter) || letter is '/' or '-' or '_' or '.');
}
