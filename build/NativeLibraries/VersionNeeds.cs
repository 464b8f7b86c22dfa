using System.Runtime.InteropServices;

namespace Peft.Build;

/// <summary>What keeps a library from loading on a system, and a copy that can do without it.</summary>
internal static class VersionNeeds
{
    /// <summary>
    /// What the compiler binds to a version so that a program asks for a C++ library whose streams initialise themselves. It stands in the
    /// table of symbols alone: no code and no relocation refers to it.
    /// </summary>
    private const string Marker = "_ZSt21ios_base_library_initv";

    /// <summary>Writes a copy of a library in which each version that is asked for because of the marker alone is asked for weakly.</summary>
    /// <remarks>On every system, not only where the version is missing: what is built here may run elsewhere, and a need that is met is met.</remarks>
    /// <param name="source">The library.</param>
    /// <param name="target">The copy.</param>
    /// <param name="definitions">The versions that a library of a name has here, or null where it isn't here.</param>
    /// <returns>A sentence on what the loader of this system would have refused, or null where it takes the library as it is.</returns>
    /// <exception cref="NotSupportedException">A version is missing that the library asks for because of something else.</exception>
    public static string? CopyLoadable(string source, string target, Func<string, IReadOnlySet<string>?> definitions)
    {
        var name = Path.GetFileName(source);
        var file = ElfFile.Read(source);
        var unmet = file.Needs.Where(need => !need.IsWeak && IsUnmet(need, definitions)).ToList();
        if (unmet.Find(need => Users(file, need) is not [Marker]) is { } refused)
        {
            var uses = Users(file, refused).Find(user => user != Marker) is { } user ? $" ({user})" : "";
            throw new NotSupportedException(
                $"{name} asks for {refused.Version}, which this system's {refused.Library} lacks{uses}: build with TorchEngine=SystemLibtorch.");
        }

        Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(target))!);
        file.Write(target, file.Needs.Where(need => Users(file, need) is [Marker]));
        return Sentence(name, unmet);
    }

    /// <summary>What is said of a library that loads here because it is a copy, or null where the loader would take the original.</summary>
    public static string? WhyCopied(string path, Func<string, IReadOnlySet<string>?> definitions) =>
        Sentence(Path.GetFileName(path), ElfFile.Read(path).Needs.Where(need => need.IsWeak && IsUnmet(need, definitions)));

    private static string? Sentence(string name, IEnumerable<VersionNeed> unmet) => unmet.Select(need => need.Version).ToList() is [_, ..] versions
        ? $"{name} asks for {string.Join(" and ", versions)}, which this system's C++ library lacks and nothing in it calls: what is built takes a copy that asks weakly."
        : null;

    private static bool IsUnmet(VersionNeed need, Func<string, IReadOnlySet<string>?> definitions) =>
        definitions(need.Library) is { } found && !found.Contains(need.Version);

    /// <summary>The versions of the library of this name that this system's loader takes, or null where it takes none.</summary>
    public static IReadOnlySet<string>? OnThisSystem(string library)
    {
        if (!NativeLibrary.TryLoad(library, out _))
        {
            return null;
        }

        // A line of this file ends in the path of what is mapped, which is what the name links to.
        var stem = library[..(library.IndexOf(".so", StringComparison.Ordinal) + 3)];
        var path = File.ReadLines("/proc/self/maps")
            .Select(line => line.IndexOf('/', StringComparison.Ordinal) is > 0 and var start ? line[start..] : "")
            .FirstOrDefault(path => Path.GetFileName(path).StartsWith(stem, StringComparison.Ordinal));
        return path is null ? null : ElfFile.Read(path).Definitions;
    }

    private static List<string> Users(ElfFile file, VersionNeed need) =>
        [.. file.Symbols.Where(symbol => symbol.Version == need.Index).Select(symbol => symbol.Name)];
}
