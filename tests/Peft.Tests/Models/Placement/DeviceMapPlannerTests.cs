using System.Text.Json.Nodes;
using Peft.Models;
using Peft.Models.Placement;
using Peft.Tests.Golden;

namespace Peft.Tests.Models.Placement;

/// <summary>Maps are those that accelerate infers (tests/references/device-maps).</summary>
public class DeviceMapPlannerTests
{
    private static readonly string s_folder = Path.Combine(GoldenCases.Repository, "tests", "references", "device-maps");

    public static TheoryData<string> Structures() => [.. Directory.EnumerateFiles(s_folder, "*.json").Select(static path => Path.GetFileNameWithoutExtension(path))];

    [Theory]
    [MemberData(nameof(Structures))]
    public void Every_weight_goes_where_accelerate_puts_it(string structure)
    {
        var document = JsonNode.Parse(File.ReadAllText(Path.Combine(s_folder, structure + ".json")))!;
        using var model = ArchitectureRegistry.Create(new ModelConfig((JsonObject)document["config"]!.DeepClone()));
        var followers = model.TiedParameters.Select(static tie => tie.Follower).ToHashSet();
        var bytes = model.NamedParameters().Where(named => !followers.Contains(named.Path))
            .ToDictionary(static named => named.Path, named => named.Parameter.Count * (long)document["element_bytes"]!);
        var blocks = document["blocks"]!.AsArray().Select(static name => (string)name!).ToHashSet();
        Assert.All(model.Descendants(), module => Assert.Equal(blocks.Contains(module.ClassName), DeviceMapPlanner.IsBlock(module)));
        List<string> wrong = [];
        foreach (var entry in document["maps"]!.AsArray())
        {
            (string, long)[] limits = [.. entry!["limits"]!.AsArray().Select(static limit => ((string)limit![0]!, (long)limit[1]!))];
            var expected = Map(entry["map"]!.AsObject().Select(static row => (row.Key, (string)row.Value!)));
            var found = Map(DeviceMapPlanner.Plan(model, bytes, [.. model.TiedParameters], limits));
            wrong.AddRange(model.NamedParameters().Where(named => found.DeviceOf(named.Path) != expected.DeviceOf(named.Path))
                .Select(named => $"{string.Join(", ", limits)}: {named.Path} on {found.DeviceOf(named.Path)} instead of {expected.DeviceOf(named.Path)}"));
        }

        Assert.Empty(wrong);
    }

    private static DeviceMap Map(IEnumerable<(string Module, string Device)> rows) => new([.. rows.Select(static row => new ModulePlacement(row.Module, row.Device, 0))]);
}
