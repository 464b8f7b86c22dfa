using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Prompts;

/// <summary>A small network that computes a table of virtual tokens from a table of its own, which trains more evenly than the result would.</summary>
/// <param name="rows">Virtual tokens.</param>
/// <param name="width">Width of the encoder's own table.</param>
internal abstract class PromptEncoder(long rows, long width)
{
    private readonly List<(string Key, Parameter Parameter)> _parameters = [("embedding.weight", new Parameter("weight", [rows, width]))];
    private readonly Dictionary<Parameter, double> _bounds = [];

    /// <summary>The parameters with the rest of their names.</summary>
    public IReadOnlyList<(string Key, Parameter Parameter)> Parameters => _parameters;

    /// <summary>The encoder's own table, [virtual tokens, width].</summary>
    protected Tensor Embedding => _parameters[0].Parameter.Data;

    /// <summary>Gives every parameter the start of PyTorch's layers.</summary>
    public void Initialise(Generator generator, Device device)
    {
        foreach (var (_, parameter) in _parameters)
        {
            parameter.Assign(_bounds.TryGetValue(parameter, out var bound)
                ? RandomTensors.Uniform(parameter.Shape, bound, generator, device)
                : RandomTensors.Normal(parameter.Shape, 1, generator, device));
        }
    }

    /// <summary>The table of virtual tokens.</summary>
    /// <param name="pass">The pass.</param>
    public abstract Tensor Forward(ForwardContext pass);

    /// <summary>Adds a parameter that starts uniform within a bound.</summary>
    protected Parameter Add(string key, double bound, params long[] shape)
    {
        var parameter = new Parameter(key[(key.LastIndexOf('.') + 1)..], shape);
        _bounds.Add(parameter, bound);
        _parameters.Add((key, parameter));
        return parameter;
    }

    /// <summary>Adds a linear layer with a bias.</summary>
    /// <returns>The layer as a function.</returns>
    protected Func<Tensor, Tensor> AddLinear(string key, long inputs, long outputs)
    {
        var bound = 1 / Math.Sqrt(inputs);
        var weight = Add($"{key}.weight", bound, outputs, inputs);
        var bias = Add($"{key}.bias", bound, outputs);
        return x => x.mm(weight.Data.t()).add(bias.Data);
    }
}
