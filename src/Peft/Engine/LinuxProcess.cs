using System.Runtime.InteropServices;
using System.Runtime.Versioning;

namespace Peft.Engine;

/// <summary>The few functions of the C library that the engine's settings need. Linux with glibc alone; everything of that kind goes through here.</summary>
[SupportedOSPlatform("linux")]
internal static unsafe partial class LinuxProcess
{
    private const string Library = "libc.so.6";
    private const int BindLazily = 0x1;
    private const int OnlyIfLoaded = 0x4;
    private const int SymbolsForAll = 0x100;
    private const int WillNeed = 3;
    private const int DontNeed = 4;

    /// <summary>Sets a variable in the process's environment, which <c>getenv</c> reads; .NET's own is a copy that native code never sees.</summary>
    public static void SetVariable(string name, string value) => _ = setenv(name, value, 1);

    /// <summary>A variable of the process's environment, or null.</summary>
    public static string? Variable(string name) => Marshal.PtrToStringUTF8(getenv(name));

    /// <summary>Loads a shared library that exists in memory alone, its symbols found before those of every library loaded later.</summary>
    /// <returns>Whether it is loaded.</returns>
    public static bool LoadForAll(ReadOnlySpan<byte> image, string name)
    {
        var file = memfd_create(name, 0);
        if (file < 0)
        {
            return false;
        }

        fixed (byte* bytes = image)
        {
            var written = write(file, bytes, image.Length);
            var loaded = written == image.Length && dlopen(FormattableString.Invariant($"/proc/self/fd/{file}"), BindLazily | SymbolsForAll) != 0;
            _ = close(file);
            return loaded;
        }
    }

    /// <summary>A function of a library that is loaded already, or zero. <paramref name="library"/> is its name as the loader knows it.</summary>
    public static nint LoadedFunction(string library, string function) => dlopen(library, BindLazily | OnlyIfLoaded) is var handle and not 0 ? dlsym(handle, function) : 0;

    /// <summary>The path of a loaded library whose file name begins so, or null.</summary>
    public static string? LoadedFile(string beginning) => File.ReadLines("/proc/self/maps")
        .Select(static line => line.IndexOf('/', StringComparison.Ordinal) is var path and >= 0 ? line[path..] : "")
        .FirstOrDefault(path => Path.GetFileName(path).StartsWith(beginning, StringComparison.Ordinal));

    /// <summary>Begins to read pages of a mapped file; where nothing is mapped nothing happens.</summary>
    public static void ReadAhead(nint start, nint bytes) => _ = madvise(start, bytes, WillNeed);

    /// <summary>Drops pages of a mapped file, with what was written to them.</summary>
    public static void Drop(nint start, nint bytes) => _ = madvise(start, bytes, DontNeed);

    /// <summary>A function of any library that was loaded for all, or zero.</summary>
    public static nint LoadedFunctionOfAll(string function) => dlsym(0, function);

    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int setenv(string name, string value, int overwrite);

    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    private static partial nint getenv(string name);

    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int memfd_create(string name, uint flags);

    [LibraryImport(Library)]
    private static partial nint write(int file, byte* bytes, nint count);

    [LibraryImport(Library)]
    private static partial int close(int file);

    [LibraryImport(Library)]
    private static partial int madvise(nint start, nint bytes, int advice);

    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    private static partial nint dlopen(string path, int flags);

    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    private static partial nint dlsym(nint handle, string name);
}
