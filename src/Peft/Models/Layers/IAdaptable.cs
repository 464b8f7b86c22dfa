using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// A weight with the map it makes, as adapters see it: the same map can be made with another weight. A module with one weight is its own;
/// a module with several (experts) gives one object for each, so that each has a slot.
/// </summary>
/// <remarks>
/// A method writes its change once, as a matrix [<see cref="Outputs"/>, <see cref="Columns"/>], and lets <see cref="FromMatrix"/> lay it out:
/// what <see cref="Apply"/> makes of that is the change of the output, whatever the kind of layer.
/// </remarks>
public interface IAdaptable
{
    /// <summary>The module that holds the weight.</summary>
    Module Module => (Module)this;

    /// <summary>Path of the module, under which an adapter file holds what adapts this weight.</summary>
    string Path => Module.Path;

    /// <summary>The weight, in the layer's own layout.</summary>
    Parameter Weight { get; }

    /// <summary>[outputs], or null.</summary>
    Parameter? Bias { get; }

    /// <summary>Size of the input: features or channels; for an embedding the number of tokens.</summary>
    long Inputs { get; }

    /// <summary>Size of the output: features or channels.</summary>
    long Outputs { get; }

    /// <summary>Whether the weight is [inputs, outputs], as in GPT-2's linear layers.</summary>
    bool IsTransposed => false;

    /// <summary>Size of a convolution's kernel in each dimension; empty for other layers.</summary>
    IReadOnlyList<long> Kernel => [];

    /// <summary>Parts of inputs and outputs that a convolution maps each for itself.</summary>
    long ChannelGroups => 1;

    /// <summary>Columns of the weight as a matrix: inputs · kernel, of one group.</summary>
    long Columns => Weight.Count / Outputs / Experts;

    /// <summary>How many such maps the weight holds, outermost: experts, of which each row of an input has one (<see cref="ForwardContext.ExpertRows"/>).</summary>
    long Experts => 1;

    /// <summary>Where the weight is; the CPU while only the structure exists.</summary>
    Device Device => Weight.Device;

    /// <summary>The layer's map with another weight, without the tape. Autograd runs through it.</summary>
    /// <param name="x">The layer's input; for an embedding int64 token ids.</param>
    /// <param name="weight">In the layer's layout, of the input's type; its number of outputs may be another, and a convolution's may see all inputs whatever the groups.</param>
    /// <param name="bias">[outputs], or null.</param>
    Tensor Apply(Tensor x, Tensor weight, Tensor? bias);

    /// <summary>A matrix [outputs, columns] in the layer's layout; a view where it can be one.</summary>
    Tensor FromMatrix(Tensor matrix) => matrix;

    /// <summary>A weight as a matrix [outputs, columns]; a view where it can be one.</summary>
    Tensor ToMatrix(Tensor weight) => weight;

    /// <summary>The shape in which a vector over the inputs spreads over an input of the layer.</summary>
    IReadOnlyList<long> InputShape => [Inputs];

    /// <summary>The shape in which a vector over the outputs spreads over an output of the layer.</summary>
    IReadOnlyList<long> OutputShape => [Outputs];

    /// <summary>A vector over the inputs, [inputs], so that it spreads over an input of the layer.</summary>
    Tensor AlongInputs(Tensor vector) => vector.view([.. InputShape]);

    /// <summary>A vector over the outputs, [outputs], so that it spreads over an output of the layer.</summary>
    Tensor AlongOutputs(Tensor vector) => vector.view([.. OutputShape]);

    /// <summary>Mixes the outputs of <see cref="Apply"/> by a matrix [new outputs, outputs], as the second of two factors does; [new outputs, outputs / groups] mixes group by group.</summary>
    Tensor Project(Tensor y, Tensor matrix) => Multiply(y, matrix);

    /// <summary>x Mᵀ over the last dimension, by the product of matrices: a mistake or a lack of memory is an exception there, and the end of the process in <c>matmul</c>.</summary>
    internal static Tensor Multiply(Tensor x, Tensor matrix) => x.dim() == 2
        ? x.mm(matrix.t())
        : x.reshape(-1, x.size(-1)).mm(matrix.t()).view([.. x.shape[..^1], matrix.size(0)]);
}
