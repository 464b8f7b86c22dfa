using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora.DataStarts;

/// <summary>Runs the base over some data, for starts that the data decide.</summary>
public interface IStartData
{
    /// <summary>Number of batches.</summary>
    int Batches { get; }

    /// <summary>Runs a batch forward.</summary>
    /// <param name="batch">Which one, from 0.</param>
    /// <param name="seen">Sees the input of every adaptable layer, [rows, inputs], in the dispose scope of the call.</param>
    /// <param name="onlyLearnt">Whether rows are left out on which nothing is learnt; padding always is.</param>
    void Observe(int batch, Action<Module, Tensor> seen, bool onlyLearnt);

    /// <summary>Adds the gradients of a batch's mean loss to <see cref="Parameter.Gradient"/> of these weights.</summary>
    /// <param name="batch">Which one, from 0.</param>
    /// <param name="weights">Weights of the base; each has a gradient of its shape.</param>
    void AddGradients(int batch, IReadOnlyList<Parameter> weights);
}
