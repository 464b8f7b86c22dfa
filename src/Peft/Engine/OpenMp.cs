using System.Runtime.InteropServices;
using System.Runtime.Versioning;

namespace Peft.Engine;

/// <summary>
/// GNU's OpenMP, as libtorch brought or found it. Work of our own runs on the same team of threads as libtorch's operators: a team beside
/// it would have to share the cores with threads that spin while they wait for libtorch's next operator.
/// </summary>
internal sealed unsafe class OpenMp
{
    private static readonly Lazy<OpenMp?> s_loaded = new(static () => OperatingSystem.IsLinux() ? Find() : null);

    private readonly delegate* unmanaged<nint, nint, uint, uint, void> _parallel;
    private readonly delegate* unmanaged<int> _threadNumber;
    private readonly delegate* unmanaged<int> _teamSize;
    private readonly delegate* unmanaged<int> _processors;

    private OpenMp(nint parallel, nint threadNumber, nint teamSize, nint processors)
    {
        _parallel = (delegate* unmanaged<nint, nint, uint, uint, void>)parallel;
        _threadNumber = (delegate* unmanaged<int>)threadNumber;
        _teamSize = (delegate* unmanaged<int>)teamSize;
        _processors = (delegate* unmanaged<int>)processors;
    }

    [ThreadStatic]
    private static bool s_isHidden;

    /// <summary>The library; null where libtorch uses another. To be asked for when libtorch is loaded.</summary>
    public static OpenMp? Loaded => s_isHidden ? null : s_loaded.Value;

    /// <summary>Whether the calling thread computes as on a system without the library: tries on Linux what happens on Windows.</summary>
    internal static bool IsHidden
    {
        get => s_isHidden;
        set => s_isHidden = value;
    }

    /// <summary>Processors that OpenMP counts.</summary>
    public int Processors => _processors();

    /// <summary>The calling thread's number in its team.</summary>
    public int ThreadNumber => _threadNumber();

    /// <summary>Threads of the calling thread's team.</summary>
    public int TeamSize => _teamSize();

    /// <summary>Runs a native function on a team.</summary>
    /// <param name="function"><c>void function(void* data)</c>.</param>
    /// <param name="data">What it is given.</param>
    /// <param name="threads">Size of the team, the calling thread included.</param>
    public void Run(nint function, nint data, int threads) => _parallel(function, data, (uint)threads, 0);

    [SupportedOSPlatform("linux")]
    private static OpenMp? Find()
    {
        // The file's name differs from one libtorch to the next.
        var library = LinuxProcess.LoadedFile("libgomp");
        if (library is null)
        {
            return null;
        }

        nint[] functions =
            [.. new[] { "GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads", "omp_get_num_procs" }.Select(name => LinuxProcess.LoadedFunction(library, name))];
        return functions.Contains(0) ? null : new OpenMp(functions[0], functions[1], functions[2], functions[3]);
    }
}
