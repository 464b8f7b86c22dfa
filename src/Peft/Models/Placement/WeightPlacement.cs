using System.Globalization;
using Peft.Engine;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Models.Placement;

/// <summary>Puts a model's weights where a map says, each as it is read.</summary>
internal sealed class WeightPlacement : IDisposable
{
    private readonly DeviceMap _map;
    private readonly DeviceMapRequest _request;
    private readonly OffloadFolder _files;
    private readonly Device _computing;
    private TensorStore? _store;
    private bool _isFinished;

    private WeightPlacement(DeviceMap map, DeviceMapRequest request)
    {
        _map = map;
        _request = request;
        _files = new OffloadFolder(request.OffloadFolder);
        _computing = device(map.Computing);
    }

    /// <summary>Plans where weights go, or checks what is asked for.</summary>
    /// <param name="model">The structure.</param>
    /// <param name="request">What is asked for.</param>
    /// <param name="bytes">What each weight takes, by its path; weights that are shared once.</param>
    /// <exception cref="PeftException"><c>DeviceMapInvalid</c>, <c>DeviceMapIncomplete</c>, <c>MaxMemoryExceeded</c>.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>DeviceMapNotSupported</c>: several GPUs, or parts outside of the blocks that aren't on the GPU that computes.</exception>
    public static WeightPlacement Plan(PretrainedModel model, DeviceMapRequest request, IReadOnlyDictionary<string, long> bytes)
    {
        var table = request.Table ?? DeviceMapPlanner.Plan(model, bytes, [.. model.TiedParameters], request.MaxMemory);
        var sizes = DeviceMapPlanner.Sizes(bytes);
        RefuseWrongNames(model, table, sizes);

        // A row stands for what it places alone: without what rows below it say otherwise.
        var names = table.Select(static row => row.Module).ToHashSet(StringComparer.Ordinal);
        var placed = bytes.ToLookup(weight => DeviceMap.Nearest(weight.Key, names.Contains), static weight => weight.Value);
        var map = new DeviceMap([.. table.Select(row => new ModulePlacement(row.Module, row.Device, placed[row.Module].Sum()))]);
        RefuseMissing(map, bytes);
        DeviceMapLimits.Check(model, map, request, sizes);
        request.OnPlan?.Invoke(map.Rows);
        return new WeightPlacement(map, request);
    }

    /// <summary>Whether any weight lies elsewhere than where it is computed with.</summary>
    public bool Offloads => _map.Offloads;

    /// <summary>Where a weight is read to.</summary>
    public Device DeviceOf(string path) => _map.DeviceOf(path) is { } name and not (DeviceMapRequest.Disk or DeviceMapRequest.Cpu) ? device(name) : CPU;

    /// <summary>Whether a weight lies elsewhere than where it is computed with.</summary>
    public bool IsOffloaded(string path) => _map.DeviceOf(path) != _map.Computing;

    /// <summary>Says where weights come from.</summary>
    public void Open(TensorStore store)
    {
        _store = store;
        if (_map.Offloads)
        {
            store.MapSmallFiles();
        }
    }

    /// <summary>Leaves a weight that was read, and maybe packed, where it is to lie.</summary>
    public void Settle(string path, Parameter parameter)
    {
        if (!IsOffloaded(path) || parameter is not { IsOwner: true, IsLoaded: true, Offloaded: null })
        {
            return;
        }

        using var scope = NewDisposeScope();
        var isOnDisk = _map.DeviceOf(path) == DeviceMapRequest.Disk;
        List<Tensor> mapped = [];
        if (isOnDisk && parameter.Packed is { } packed)
        {
            parameter.Pack(packed.Moved(OnDisk));
        }
        else if (isOnDisk)
        {
            parameter.Assign(OnDisk(parameter.Data));
        }

        parameter.Offload(new OffloadedWeight(parameter, _computing, mapped, _map.Computing != DeviceMapRequest.Cpu || _request.AlwaysCopies));
        parameter.Offloaded!.Drop();

        Tensor OnDisk(Tensor tensor)
        {
            var file = tensor.NumberOfElements == 0 || _store!.IsMapped(tensor) ? tensor.alias() : _files.Write(path, tensor);
            mapped.Add(file);
            return file;
        }
    }

    /// <summary>Gives the model what brings its weights to where they are computed with.</summary>
    public void Finish(PretrainedModel model)
    {
        foreach (var (path, parameter, _) in model.NamedWeights())
        {
            Settle(path, parameter);
        }

        model.Residency = new Residency(model, _map, _computing, _files);
        _isFinished = true;
        if (_map.Offloads)
        {
            FreedMemory.GiveBack();
        }
    }

    /// <summary>Removes the files of weights that no model got.</summary>
    public void Dispose()
    {
        if (!_isFinished)
        {
            _files.Dispose();
        }
    }

    private static void RefuseWrongNames(PretrainedModel model, IReadOnlyList<(string Module, string Device)> table, Dictionary<string, long> sizes)
    {
        if (table.GroupBy(static row => row.Module, StringComparer.Ordinal).FirstOrDefault(static rows => rows.Count() > 1)?.Key is { } twice)
        {
            throw new PeftException("DeviceMapInvalid", $"The device map names {(twice.Length == 0 ? "the whole model" : $"the module '{twice}'")} twice.")
            {
                Target = twice,
                RecommendedAction = "Name each module once.",
            };
        }

        foreach (var (module, _) in table)
        {
            if (!sizes.ContainsKey(module) && model.Find(module) is null && model.FindParameter(module) is null)
            {
                throw new PeftException("DeviceMapInvalid", $"The device map names a module '{module}', which the model doesn't have.")
                {
                    Target = module,
                    RecommendedAction = $"Name modules of the model: {string.Join(", ", model.Descendants().Skip(1).Take(4).Select(static known => known.Path))}, …; Get-ModelModule lists them.",
                };
            }
        }
    }

    private static void RefuseMissing(DeviceMap map, IReadOnlyDictionary<string, long> bytes)
    {
        string[] missing = [.. bytes.Keys.Where(path => map.DeviceOf(path) is null).Select(static path => path[..Math.Max(0, path.LastIndexOf('.'))]).Distinct()];
        if (missing.Length > 0)
        {
            throw new PeftException("DeviceMapIncomplete", string.Create(CultureInfo.InvariantCulture, $"The device map gives no device for {string.Join(", ", missing.Take(4))}{(missing.Length > 4 ? $" and {missing.Length - 4} more" : "")}."))
            {
                Target = missing[0],
                RecommendedAction = "Name them, or give the rest of the model a device under the empty name: @{ '' = 'cpu' }.",
            };
        }
    }
}
