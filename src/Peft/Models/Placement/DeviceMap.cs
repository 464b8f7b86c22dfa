namespace Peft.Models.Placement;

/// <summary>Where a module's weights lie.</summary>
/// <param name="Module">The module's or the parameter's path; empty for the whole model.</param>
/// <param name="Device"><c>cpu</c>, <c>disk</c>, or a GPU such as <c>cuda:0</c>.</param>
/// <param name="Bytes">What its weights take there.</param>
public sealed record ModulePlacement(string Module, string Device, long Bytes);

/// <summary>How a model's modules are to be placed: by themselves within limits, or as a table says. As transformers and accelerate have it.</summary>
public sealed record DeviceMapRequest
{
    /// <summary>What stands for the disk in a map.</summary>
    public const string Disk = "disk";

    /// <summary>What stands for the processor's memory in a map.</summary>
    public const string Cpu = "cpu";

    /// <summary>Devices by module path, where the caller says it; null where it is planned.</summary>
    public IReadOnlyList<(string Module, string Device)>? Table { get; init; }

    /// <summary>The most bytes that weights may take, by device, GPUs first: devices are filled in this order, and what is left stays on the disk.</summary>
    public IReadOnlyList<(string Device, long Bytes)> MaxMemory { get; init; } = [];

    /// <summary>Where weights go that have to be written again to stay on the disk: of another type, quantised while they are loaded, or joined of several. Null where none may.</summary>
    public string? OffloadFolder { get; init; }

    /// <summary>Sees the plan before weights are read.</summary>
    public Action<IReadOnlyList<ModulePlacement>>? OnPlan { get; init; }

    /// <summary>Whether weights that lie elsewhere are copied for a block even where that is the device computed on: tries without a GPU what happens on one.</summary>
    internal bool AlwaysCopies { get; init; }
}

/// <summary>A device for every weight of a model.</summary>
/// <param name="Rows">The map, in the order of the model's modules.</param>
internal sealed record DeviceMap(IReadOnlyList<ModulePlacement> Rows)
{
    private readonly Dictionary<string, string> _devices = Rows.ToDictionary(static row => row.Module, static row => row.Device, StringComparer.Ordinal);

    /// <summary>The device that computes: the first GPU of the map, or the processor.</summary>
    public string Computing => Rows.Select(static row => row.Device).FirstOrDefault(static device => device is not (DeviceMapRequest.Cpu or DeviceMapRequest.Disk)) ?? DeviceMapRequest.Cpu;

    /// <summary>Whether any weight lies elsewhere than on the device that computes.</summary>
    public bool Offloads => Rows.Any(row => row.Device != Computing);

    /// <summary>Where a module or a parameter lies: what the nearest of the modules above says; null where none does.</summary>
    public string? DeviceOf(string path) => Nearest(path, _devices.ContainsKey) is { } module ? _devices[module] : null;

    /// <summary>The module that a map places a path by: itself, or the nearest of those above that are named; null where none is.</summary>
    public static string? Nearest(string path, Func<string, bool> isNamed)
    {
        for (var name = path; ; name = name[..name.LastIndexOf('.')])
        {
            if (isNamed(name))
            {
                return name;
            }

            if (!name.Contains('.', StringComparison.Ordinal))
            {
                return isNamed("") ? "" : null;
            }
        }
    }
}
