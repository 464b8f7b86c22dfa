using Peft.Tensors.Gguf;
using static TorchSharp.torch;

namespace Peft.Models.Gguf;

/// <summary>A quantised matrix of a file, or one for each expert, in the tree's order of rows.</summary>
/// <param name="Type">The type of its blocks.</param>
/// <param name="Blocks">uint8, [outputs, bytes of a row] or [experts, outputs, bytes of a row].</param>
/// <param name="DataType">The type that the model's plain weights have.</param>
internal sealed record GgufPacked(GgufType Type, Tensor Blocks, ScalarType DataType);

/// <summary>How blocks are kept.</summary>
/// <param name="Make">Makes the weight of a tensor of the caller's dispose scope; where it is unpacked to, whether the parameter's layout is [inputs, outputs], where it goes.</param>
/// <param name="DataType">The type that the model's plain weights have.</param>
internal sealed record GgufPacking(Func<GgufPacked, UnpackBuffer, bool, Device, PackedWeight> Make, ScalarType DataType);
