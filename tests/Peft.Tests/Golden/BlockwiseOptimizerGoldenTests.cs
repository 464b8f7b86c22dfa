using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Models;
using Peft.Training;
using Peft.Training.Optimizers;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>bitsandbytes' optimisers: weights and memories after some steps with given gradients.</summary>
public sealed class BlockwiseOptimizerGoldenTests
{
    private const string Domain = "quantisation";

    [GoldenTheory]
    [GoldenData(Domain, "optimisers/")]
    public void Weights_and_memories_are_the_peers(string path) => GoldenCases.Run(Domain, path, folder =>
    {
        using var scope = NewDisposeScope();
        var record = AdapterGolden.Case(folder);
        var given = AdapterGolden.Tensors(Path.Combine(folder, (string)record["given"]!));
        var after = AdapterGolden.Tensors(Path.Combine(folder, "after.safetensors"));
        var parameters = given.Keys.Where(static name => name.StartsWith("start.", StringComparison.Ordinal)).ToDictionary(static name => name["start.".Length..], name => Made(given[name]));
        using (var optimizer = OptimizerRegistry.Create(parameters.Select(static entry => new TrainedParameter(entry.Key, entry.Value)), Options(path, record["arguments"]!)))
        {
            for (var step = 0; given.ContainsKey($"gradient.{step}.{parameters.Keys.First()}"); step++)
            {
                foreach (var (name, parameter) in parameters)
                {
                    parameter.Gradient!.copy_(given[$"gradient.{step}.{name}"]);
                }

                optimizer.Step(1);
            }

            foreach (var name in record["state"]!.AsObject().Select(static entry => entry.Key))
            {
                Hold(after[name], Memory(optimizer, name).to(after[name].dtype).view(after[name].shape), record, name);
            }

            foreach (var (name, parameter) in parameters)
            {
                Hold(after[name + ".after"], parameter.Data, record, name);
            }
        }

        AdapterGolden.Free(given, after);
    });

    /// <summary>Codes may differ by one; of the rest a share that the case names may lie outside of its tolerance.</summary>
    private static void Hold(Tensor expected, Tensor found, JsonObject record, string name)
    {
        var (wanted, own) = (expected.to(ScalarType.Float64), found.detach().to(ScalarType.Float64));
        var (absolute, relative) = expected.is_floating_point() ? ((double)record["tolerance"]!["atol"]!, (double)record["tolerance"]!["rtol"]!) : (1, 0);
        var outside = (wanted - own).abs().gt(wanted.abs().mul(relative).add(absolute)).sum().item<long>();
        Assert.True(outside <= (double)record["share_of_elements_allowed_outside"]! * expected.NumberOfElements, $"{name}: {outside} of {expected.NumberOfElements} differ");
    }

    /// <summary>What the peer keeps in one tensor may be two memories here.</summary>
    private static Tensor Memory(Optimizer optimizer, string name)
    {
        var (parameter, part) = (name[..name.LastIndexOf('.')], name[(name.LastIndexOf('.') + 1)..]);
        var isScale = part.StartsWith("absmax", StringComparison.Ordinal);
        var own = "." + part.Replace("absmax", "state", StringComparison.Ordinal);
        var end = isScale ? ".absmax" : "";
        return cat([.. new[] { own, own + "_slow" }.Select(memory => optimizer.State.GetValueOrDefault(parameter + memory + end)).OfType<Tensor>()]);
    }

    private static TrainingOptions Options(string path, JsonNode arguments)
    {
        var group = arguments["group"]!;
        double[] betas = [.. group["betas"]!.AsArray().Select(static beta => (double)beta!)];
        var name = NameOf(path[(path.LastIndexOf('/') + 1)..]);
        var own = new JsonObject();
        if (name.StartsWith("sgd", StringComparison.Ordinal))
        {
            own["momentum"] = betas[0];
        }
        else if (name.StartsWith("rmsprop", StringComparison.Ordinal))
        {
            own["alpha"] = betas[0];
        }
        else if (betas.Length == 3)
        {
            (own["beta3"], own["alpha"]) = (betas[2], (double)group["alpha"]!);
        }

        return new TrainingOptions
        {
            Optimizer = name,
            LearningRate = (double)group["lr"]!,
            WeightDecay = (double)group["weight_decay"]!,
            Epsilon = (double)group["eps"]!,
            Beta1 = betas[0],
            Beta2 = betas[1],
            OptimizerOptions = own,
        };
    }

    /// <summary>The optimiser's name in a training: that of the peer's class in lower case, its bits and whether it is paged apart.</summary>
    private static string NameOf(string className)
    {
        var name = className.ToLower(CultureInfo.InvariantCulture).Replace("8bit", "_8bit", StringComparison.Ordinal).Replace("32bit", "_32bit", StringComparison.Ordinal).Replace("paged", "paged_", StringComparison.Ordinal);
        return OptimizerRegistry.Names.Contains(name) ? name : name.Replace("_", "_bnb_", StringComparison.Ordinal);
    }

    private static Parameter Made(Tensor value)
    {
        var parameter = new Parameter("weight", value.shape);
        parameter.Assign(value.clone());
        return parameter;
    }
}
