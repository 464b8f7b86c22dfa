using System.Text.Json.Nodes;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Activations beside what transformers computes and prints (tests/references/activations).</summary>
public sealed class ActivationTests
{
    private static readonly JsonNode s_recorded = JsonNode.Parse(File.ReadAllText(Path.Combine(RepositoryRoot.Folder, "tests", "references", "activations", "activations.json")))!;

    public static IEnumerable<object[]> Names() => s_recorded["activations"]!.AsObject().Select(static row => new object[] { row.Key });

    [Theory]
    [MemberData(nameof(Names))]
    public void AnActivationIsWhatTransformersComputesAndPrints(string name)
    {
        var row = s_recorded["activations"]![name]!;
        using var activation = new Activation(name);
        Assert.Equal((string)row["prints"]!, $"{activation.ClassName}({activation.Details})");

        using var scope = NewDisposeScope();
        float[] x = [.. s_recorded["x"]!.AsArray().Select(static value => (float)value!)];
        var found = activation.Apply(tensor(x)).data<float>().ToArray();
        foreach (var (expected, value) in row["values"]!.AsArray().Zip(found))
        {
            Assert.Equal((double)expected!, value, 1e-5 * Math.Max(1, Math.Abs((double)expected!)));
        }
    }
}
