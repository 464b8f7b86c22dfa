using System.Globalization;

namespace Peft.Models.Gguf;

/// <summary>A module or a parameter, and what files call it.</summary>
/// <param name="Tree">
/// The path below the backbone, or below a layer: of a module, whose parameters keep the ends of their names, or of a parameter. <c>#</c> at its end
/// is the index of one of several modules whose vectors are the rows of one tensor.
/// </param>
/// <param name="File">The name in files, likewise; several where files hold a parameter in several tensors.</param>
internal sealed record GgufName(string Tree, params IReadOnlyList<string> File)
{
    /// <summary>How values stand in files.</summary>
    public GgufLayout Layout { get; init; } = GgufLayout.Plain;

    /// <summary>Whether llama.cpp adds what an adapter has for it; in some places it computes past them, or ends.</summary>
    public bool HasAdapters { get; init; } = true;

    /// <summary>The one tensor in which newer files hold all of <see cref="File"/> instead, one behind the other along the second dimension; null where none does.</summary>
    public string? Fused { get; init; }

    /// <summary>Whether llama.cpp reads a bias there.</summary>
    public bool HasBias { get; init; } = true;

    /// <summary>The block that a tensor belongs to; null outside.</summary>
    public static int? Layer(string file) => file.StartsWith("blk.", StringComparison.Ordinal) && file.IndexOf('.', 4) is > 0 and var end
        && int.TryParse(file.AsSpan(4, end - 4), NumberStyles.None, CultureInfo.InvariantCulture, out var layer) ? layer : null;

    /// <summary>What of a path follows this name, and the index where it has one; null for another name.</summary>
    public (string End, int? Index)? Match(string path)
    {
        if (Tree[^1] != '#')
        {
            return path == Tree ? ("", null) : path.StartsWith(Tree + ".", StringComparison.Ordinal) ? (path[Tree.Length..], null) : null;
        }

        var stem = Tree[..^1];
        var end = path.IndexOf('.', Math.Min(stem.Length, path.Length));
        return end > 0 && path.StartsWith(stem, StringComparison.Ordinal) && int.TryParse(path.AsSpan(stem.Length, end - stem.Length), CultureInfo.InvariantCulture, out var index) ? (path[end..], index) : null;
    }
}

/// <summary>What a number of a configuration is in a file.</summary>
internal enum GgufKind
{
    /// <summary>A whole number.</summary>
    Whole,

    /// <summary>Any number.</summary>
    Number,

    /// <summary>True or false.</summary>
    Flag,
}

/// <summary>A size or setting that configuration and file both state.</summary>
/// <param name="Tree">Its key in configurations; null where they don't state it.</param>
/// <param name="File">Its key in files, behind the architecture's name.</param>
/// <param name="Kind">What it is.</param>
internal sealed record GgufKey(string? Tree, string File, GgufKind Kind = GgufKind.Whole)
{
    /// <summary>What it is, whatever the configuration says; null for what that says.</summary>
    public Func<PretrainedModel, double?>? Of { get; init; }

    /// <summary>What it is where the configuration doesn't say; null where the file doesn't say it then either.</summary>
    public Func<PretrainedModel, ModelConfig, double?>? Otherwise { get; init; }

    /// <summary>Whether no model does without it.</summary>
    public bool IsRequired { get; init; }
}

/// <summary>A setting that llama.cpp takes for granted in an architecture.</summary>
/// <param name="Key">Its key in configurations; a dot stands between a part's name and the key inside it.</param>
/// <param name="Accepted">The values that are computed alike; the first is what a file's model has.</param>
internal sealed record GgufFixed(string Key, params IReadOnlyList<object?> Accepted);

/// <summary>A setting that files state by holding a tensor or not.</summary>
/// <param name="Key">Its key in configurations.</param>
/// <param name="Tensor">The tensor; behind an exclamation mark the one that is missing.</param>
internal sealed record GgufFlag(string Key, string Tensor)
{
    /// <summary>What the file says.</summary>
    public bool Of(Func<string, bool> contains) => Tensor[0] == '!' ? !contains(Tensor[1..]) : contains(Tensor);
}
