using System.Text.Json.Nodes;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>Puts weights of linear layers into a packed form while a model is loaded: each as soon as it was read, so that no two of them are plain at a time.</summary>
public interface IWeightPacking
{
    /// <summary>What <c>quantization_config</c> says of a model that was packed so.</summary>
    JsonObject Document { get; }

    /// <summary>The layers whose weights are packed.</summary>
    /// <param name="model">A structure, with weights or without.</param>
    IReadOnlySet<Linear> Targets(PretrainedModel model);

    /// <summary>Packs a weight.</summary>
    /// <param name="layer">One of the targets.</param>
    /// <param name="weight">Its weight, in the layout of the layer's parameter.</param>
    PackedWeight Pack(Linear layer, Tensor weight);

    /// <summary>What a packed weight takes, told from its shape.</summary>
    /// <param name="layer">One of the targets.</param>
    long BytesOf(Linear layer);

    /// <summary>Refuses a model of whose layers none was packed, since they share their weights with what isn't.</summary>
    /// <param name="targets">What was to be packed.</param>
    /// <param name="model">The model.</param>
    void RefuseNone(IReadOnlySet<Linear> targets, PretrainedModel model);
}

/// <summary>A store some of whose tensors are packed weights. Under their names it has their shapes and types as plain ones, and reads them so where that is asked for.</summary>
public interface IPackedStore
{
    /// <summary>Whether a tensor is a packed weight.</summary>
    /// <param name="name">The tensor's name.</param>
    bool IsPacked(string name);

    /// <summary>What a packed weight takes.</summary>
    /// <param name="name">A name for which <see cref="IsPacked"/> is true.</param>
    long PackedBytes(string name);

    /// <summary>Reads a packed weight as it is.</summary>
    /// <param name="name">A name for which <see cref="IsPacked"/> is true.</param>
    /// <param name="buffer">Where the model's packed weights are unpacked to.</param>
    /// <param name="isTransposed">Whether the layout of the parameter that takes it is [inputs, outputs].</param>
    /// <param name="device">Where it goes.</param>
    PackedWeight ReadPacked(string name, UnpackBuffer buffer, bool isTransposed, Device device);
}
