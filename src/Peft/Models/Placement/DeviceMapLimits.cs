namespace Peft.Models.Placement;

/// <summary>What a map must fulfil to be computed with.</summary>
internal static class DeviceMapLimits
{
    /// <summary>Refuses a map that this can't be computed by, or that takes more than is allowed.</summary>
    /// <exception cref="PeftException"><c>MaxMemoryExceeded</c>.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>DeviceMapNotSupported</c>.</exception>
    public static void Check(PretrainedModel model, DeviceMap map, DeviceMapRequest request, Dictionary<string, long> sizes)
    {
        RefuseDevices(model, map);
        foreach (var (device, most) in request.MaxMemory.Where(static limit => limit.Device != DeviceMapRequest.Disk))
        {
            var resident = map.Rows.Where(row => row.Device == device).Sum(static row => row.Bytes);
            var (name, streamed) = device == map.Computing ? LargestElsewhere(model, map, sizes) : ("", 0);
            if (resident + streamed > most)
            {
                throw new PeftException("MaxMemoryExceeded", FormattableString.Invariant($"On '{device}' weights may take {most / 1e6:N1} MB, but {(resident > 0 ? $"{resident / 1e6:N1} MB are to lie there" : "")}{(resident > 0 && streamed > 0 ? " and " : "")}{(streamed > 0 ? $"'{name}' takes {streamed / 1e6:N1} MB while it is computed" : "")}."))
                {
                    Target = device,
                };
            }
        }
    }

    /// <summary>The largest part that is brought to the device that computes: a whole block, or a module outside of blocks.</summary>
    private static (string Name, long Bytes) LargestElsewhere(PretrainedModel model, DeviceMap map, Dictionary<string, long> sizes) =>
        model.Descendants().Where(module => DeviceMapPlanner.IsBlock(module) || (module.Children.Count == 0 && Block(module) is null))
            .Select(module => (module.Path, Bytes: module.NamedParameters().Where(named => map.DeviceOf(named.Path) != map.Computing).Sum(named => sizes.GetValueOrDefault(named.Path))))
            .DefaultIfEmpty(("", 0L)).MaxBy(static part => part.Item2);

    private static void RefuseDevices(PretrainedModel model, DeviceMap map)
    {
        string[] gpus = [.. map.Rows.Select(static row => row.Device).Where(static device => device is not (DeviceMapRequest.Cpu or DeviceMapRequest.Disk)).Distinct()];
        if (gpus.Length > 1)
        {
            throw new NotSupportedByPeftException("DeviceMapNotSupported", $"A device map that computes on {string.Join(" and ", gpus)} is not supported: one GPU computes, and what doesn't fit on it lies on the processor or the disk.")
            {
                Target = gpus[1],
                RecommendedAction = "Leave one GPU in the map and in max_memory; -LoadIn4Bit takes about a quarter of bfloat16.",
            };
        }

        if (gpus.Length == 1 && model.NamedParameters().FirstOrDefault(named => map.DeviceOf(named.Path) != map.Computing && Block(named.Module) is null) is { Path: { } outside })
        {
            throw new NotSupportedByPeftException("DeviceMapNotSupported", $"'{outside}' stands outside of the model's blocks and is to lie elsewhere than on the GPU that computes, which is supported of blocks alone.")
            {
                Target = outside,
                RecommendedAction = $"Place it on '{map.Computing}', and blocks elsewhere: @{{ '' = {map.Computing[(map.Computing.IndexOf(':', StringComparison.Ordinal) + 1)..]}; 'model.layers.30' = 'cpu'; … }}.",
            };
        }
    }

    private static Module? Block(Module module)
    {
        for (var above = module; above is not null; above = above.Parent)
        {
            if (DeviceMapPlanner.IsBlock(above))
            {
                return above;
            }
        }

        return null;
    }
}
