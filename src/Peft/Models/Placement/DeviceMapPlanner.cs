namespace Peft.Models.Placement;

/// <summary>
/// Spreads modules over devices as accelerate's <c>infer_auto_device_map</c> does: devices are filled in their order with modules in theirs, a block is never
/// split, what shares weights goes together, and the device that computes (and the processor behind a GPU) keeps room for the largest layer that lies elsewhere.
/// </summary>
internal sealed class DeviceMapPlanner
{
    private readonly Dictionary<string, long> _sizes;
    private readonly string[][] _ties;
    private readonly IReadOnlyList<(string Device, long Bytes)> _limits;
    private readonly HashSet<string> _main;
    private readonly LinkedList<Unit> _left;
    private readonly List<(string Name, string Device)> _map = [];
    private long _largest;
    private HashSet<string> _largestNames;

    private DeviceMapPlanner(PretrainedModel model, Dictionary<string, long> sizes, IReadOnlyList<(string Owner, string Follower)> ties, IReadOnlyList<(string Device, long Bytes)> limits)
    {
        _sizes = sizes;
        _ties = [.. ties.GroupBy(static tie => tie.Owner, static tie => tie.Follower).Select(static group => group.Append(group.Key).Order(StringComparer.Ordinal).ToArray())];
        _limits = [.. limits.Where(static limit => limit.Device != DeviceMapRequest.Disk), (DeviceMapRequest.Disk, long.MaxValue)];
        _main = _limits[0].Device is DeviceMapRequest.Cpu or DeviceMapRequest.Disk ? [DeviceMapRequest.Cpu] : [_limits[0].Device, DeviceMapRequest.Cpu];
        _left = new LinkedList<Unit>(Parts(new Unit("", model)));
        (_largest, _largestNames) = Largest(_left);
    }

    /// <summary>Plans a map.</summary>
    /// <param name="model">The structure.</param>
    /// <param name="bytes">What each weight takes, by its path; weights that are shared once.</param>
    /// <param name="ties">Weights that are shared.</param>
    /// <param name="limits">The most bytes by device, in the order in which they are filled; the disk comes last and takes all.</param>
    /// <returns>Devices by module, as few rows as say it.</returns>
    public static IReadOnlyList<(string Module, string Device)> Plan(
        PretrainedModel model, IReadOnlyDictionary<string, long> bytes, IReadOnlyList<(string Owner, string Follower)> ties, IReadOnlyList<(string Device, long Bytes)> limits)
    {
        var planner = new DeviceMapPlanner(model, Sizes(bytes), ties, limits);
        planner.Fill();
        return Cleaned(planner._map, model);
    }

    /// <summary>The blocks of a model: entries of the outermost lists of modules, which hold what is added to its own input.</summary>
    public static bool IsBlock(Module module)
    {
        if (!IsListEntry(module))
        {
            return false;
        }

        for (var above = module.Parent!.Parent; above is not null; above = above.Parent)
        {
            if (IsListEntry(above))
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>Bytes of every module and parameter, by path.</summary>
    public static Dictionary<string, long> Sizes(IReadOnlyDictionary<string, long> bytes)
    {
        var sizes = new Dictionary<string, long>(StringComparer.Ordinal);
        foreach (var (path, size) in bytes)
        {
            sizes[""] = sizes.GetValueOrDefault("") + size;
            for (var end = path.IndexOf('.', StringComparison.Ordinal); end >= 0; end = path.IndexOf('.', end + 1))
            {
                sizes[path[..end]] = sizes.GetValueOrDefault(path[..end]) + size;
            }

            sizes[path] = sizes.GetValueOrDefault(path) + size;
        }

        return sizes;
    }

    private static bool IsListEntry(Module module) => module.Parent?.ClassName == "ModuleList";

    private void Fill()
    {
        var place = 0;
        long used = 0;
        while (_left.First is { } next)
        {
            var unit = next.Value;
            _left.RemoveFirst();
            Forget(unit);
            var (device, limit) = _limits[place];
            var reserved = _main.Contains(device) ? _largest : 0;
            var room = device == DeviceMapRequest.Disk ? long.MaxValue : limit - reserved;
            var size = SizeOf(unit.Name);
            var tied = Tied(unit.Name);
            if (used + size + tied.Sum(static entry => entry.Bytes) <= room)
            {
                used += size + tied.Sum(static entry => entry.Bytes);
                Put(unit.Name, device);
                foreach (var entry in tied.Where(entry => _left.Remove(entry.Unit)))
                {
                    Put(entry.Unit.Name, device);
                }

                continue;
            }

            if ((tied.Count > 0 && used + size <= room && SplitTied(unit, tied)) || (used + size >= room && Split(unit)))
            {
                continue;
            }

            place++;
            used = 0;
            _left.AddFirst(unit);
        }
    }

    private void Put(string name, string device)
    {
        _map.RemoveAll(entry => entry.Name == name);
        _map.Add((name, device));
    }

    /// <summary>The largest layer may be the one that is placed now.</summary>
    private void Forget(Unit unit)
    {
        _largestNames.RemoveWhere(name => name == unit.Name || name.StartsWith(unit.Name + ".", StringComparison.Ordinal));
        if (_largestNames.Count == 0)
        {
            Reconsider();
        }
    }

    private void Reconsider() => (_largest, _largestNames) = Largest(_left.Where(static unit => unit.Module is not null));

    private (long Bytes, HashSet<string> Names) Largest(IEnumerable<Unit> units)
    {
        long largest = 0;
        HashSet<string> names = [];
        foreach (var leaf in units.SelectMany(Leaves))
        {
            var size = SizeOf(leaf.Name);
            if (size > largest)
            {
                (largest, names) = (size, [leaf.Name]);
            }
            else if (size == largest)
            {
                names.Add(leaf.Name);
            }
        }

        return (largest, names);
    }

    private static IEnumerable<Unit> Leaves(Unit unit) =>
        CanSplit(unit) ? unit.Module!.Children.SelectMany(child => Leaves(new Unit(Join(unit.Name, child.Name), child))) : [unit];

    /// <summary>What isn't placed yet and shares weights with a unit, with what it takes beside these.</summary>
    private List<(Unit Unit, long Bytes)> Tied(string name) => [.. from tie in _ties
        where tie.Any(path => IsAt(path, name))
        from other in tie
        where !IsAt(other, name)
        from unit in _left.Where(unit => IsAt(other, unit.Name)).Take(1)
        select (unit, SizeOf(unit.Name) - SizeOf(other))];

    private bool SplitTied(Unit unit, List<(Unit Unit, long Bytes)> tied)
    {
        if (tied.Find(static entry => CanSplit(entry.Unit)).Unit is not { Module: not null } whole)
        {
            return false;
        }

        var place = _left.Find(whole)!;
        foreach (var part in Parts(whole))
        {
            _left.AddBefore(place, part);
        }

        _left.Remove(place);
        _left.AddFirst(unit);
        Reconsider();
        return true;
    }

    private bool Split(Unit unit)
    {
        if (!CanSplit(unit))
        {
            return false;
        }

        foreach (var part in Parts(unit).Reverse())
        {
            _left.AddFirst(part);
        }

        Reconsider();
        return true;
    }

    private long SizeOf(string name) => _sizes.GetValueOrDefault(name);

    private static bool CanSplit(Unit unit) => unit.Module is { Children.Count: > 0 } module && !IsBlock(module);

    private static IEnumerable<Unit> Parts(Unit unit) =>
        [.. unit.Module!.Parameters.Select(parameter => new Unit(Join(unit.Name, parameter.Name), null)), .. unit.Module.Children.Select(child => new Unit(Join(unit.Name, child.Name), child))];

    private static bool IsAt(string path, string name) => path == name || path.StartsWith(name + ".", StringComparison.Ordinal);

    private static string Join(string path, string name) => path.Length == 0 ? name : $"{path}.{name}";

    /// <summary>Joins rows below a module that lie on one device, in the order of the model.</summary>
    private static List<(string Module, string Device)> Cleaned(List<(string Name, string Device)> map, PretrainedModel model)
    {
        var devices = map.ToDictionary(static row => row.Name, static row => row.Device, StringComparer.Ordinal);
        List<(string, string)> rows = [];
        Add("", model);
        return rows;

        void Add(string name, Module? module)
        {
            var below = devices.Where(row => name.Length == 0 || IsAt(row.Key, name)).Select(static row => row.Value).Distinct().ToArray();
            if (below.Length == 1)
            {
                rows.Add((name, below[0]));
            }
            else if (below.Length > 1)
            {
                foreach (var part in Parts(new Unit(name, module)))
                {
                    Add(part.Name, part.Module);
                }
            }
        }
    }

    /// <summary>A module, or a parameter where there is none.</summary>
    private readonly record struct Unit(string Name, Module? Module);
}
