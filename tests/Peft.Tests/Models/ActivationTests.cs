using System.Text.Json.Nodes;
using Peft.Models;
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

    [Theory]
    [MemberData(nameof(Names))]
    public void GradientsAreAutogradsOfTheFormula(string name)
    {
        using var activation = new Activation(name);
        foreach (var (type, tolerance, rows) in new[] { (ScalarType.Float32, 2e-5, 9), (ScalarType.Float32, 2e-5, 7_000), (ScalarType.BFloat16, 0.03, 70) })
        {
            using var check = new BackwardCheck { Type = type, Tolerance = tolerance };
            var x = check.Input(rows, 13);
            check.Run(context => activation.Forward(x, context), (inputs, _) => activation.Apply(inputs[0]));
        }
    }

    [Fact]
    public void OnlyItsInputIsKept()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var tape = new Tape();
        using var activation = new Activation("gelu_new");
        var x = randn(20, 30);
        tape.AddRoot(x, needsGradient: true);
        var y = activation.Forward(x, new ForwardContext { Tape = tape });
        Assert.Equal(x.numel() * x.ElementSize, tape.KeptBytes);
        using var again = tape.SourceOf(y)!.Recompute();
        Assert.True(again.equal(y).all().item<bool>());
    }
}
