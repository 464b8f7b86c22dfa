using Peft.Engine;
using Peft.Engine.Steps;
using static TorchSharp.torch;

namespace Peft.Models.Steps;

/// <summary>Makes the operations of recorded steps for the memory that a stack's tensors lie in. What it gives null for, there is no operation for.</summary>
internal interface IStepKernels
{
    /// <summary>Whether operations can read and write a tensor.</summary>
    bool Serves(Tensor tensor);

    /// <summary>Where a tensor's elements begin.</summary>
    nint Address(Tensor tensor);

    /// <summary>y = x Wᵀ + b + residual.</summary>
    /// <param name="x">[1, in].</param>
    /// <param name="y">[1, out].</param>
    /// <param name="product">What the product is made of.</param>
    IReadOnlyList<StepOperation>? Product(Tensor x, Tensor y, LinearSource product);

    /// <summary>h = A x, and y[columns] += scale · B h of each change.</summary>
    /// <param name="x">[1, in].</param>
    /// <param name="down">A of all changes, one below the other.</param>
    /// <param name="inner">h, [1, ranks].</param>
    /// <param name="y">[1, out].</param>
    /// <param name="changes">B of each, and where it stands.</param>
    IReadOnlyList<StepOperation>? LowRank(Tensor x, Tensor down, Tensor inner, Tensor y, IReadOnlyList<(Tensor B, LowRankPlace Place)> changes);

    /// <summary>Turns queries and keys, fills the cache, and attends to it.</summary>
    /// <param name="pass">What differs from token to token.</param>
    /// <param name="sizes">The sizes.</param>
    /// <param name="queries">[1, heads · key size].</param>
    /// <param name="stored">Keys and values that are put into the cache; null where they are there already.</param>
    /// <param name="output">[1, heads · value size].</param>
    IReadOnlyList<StepOperation>? Attention(IStepAttention pass, StepHeads sizes, Tensor queries, (Tensor Keys, Tensor Values)? stored, Tensor output);

    /// <summary>residual + what the experts that a token's scores choose compute of it, weighed.</summary>
    /// <param name="x">[1, width].</param>
    /// <param name="y">[1, width].</param>
    /// <param name="source">What they are made of.</param>
    IReadOnlyList<StepOperation>? Experts(Tensor x, Tensor y, ExpertSource source);

    /// <summary>act(x), or act(gate) · up of gate and up side by side.</summary>
    StepOperation? Activation(Tensor x, Tensor y, ActivationForm form, bool isGated);

    /// <summary>x · sigmoid(gate), with one gate for all.</summary>
    StepOperation? SigmoidGate(Tensor x, Tensor gate, Tensor y);

    /// <summary>Stretches of a tensor that are put elsewhere: from an element of one to an element of another, some elements each.</summary>
    StepOperation? Copy(IReadOnlyList<CopiedStretch> stretches);

    /// <summary>The root mean square norm of rows.</summary>
    /// <param name="x">[rows, …, width].</param>
    /// <param name="weight">[width], of the same type.</param>
    /// <param name="y">Of the input's shape.</param>
    /// <param name="width">Width of a row.</param>
    /// <param name="epsilon">Added to the mean square.</param>
    StepOperation? RmsNorm(Tensor x, Tensor weight, Tensor y, int width, double epsilon);

    /// <summary>The layer norm of rows.</summary>
    /// <param name="x">[rows, width].</param>
    /// <param name="weight">[width], float32.</param>
    /// <param name="bias">[width], float32, or null.</param>
    /// <param name="y">Of the input's shape.</param>
    /// <param name="width">Width of a row.</param>
    /// <param name="epsilon">Added to the variance.</param>
    StepOperation? LayerNorm(Tensor x, Tensor weight, Tensor? bias, Tensor y, int width, double epsilon);

    /// <summary>left + scale · right; scale · right where there is no left one.</summary>
    StepOperation? Sum(Tensor? left, Tensor right, Tensor y, float scale);
}

/// <summary>Where a low-rank change stands: its columns in the output, its rows in A of all changes, and what multiplies it.</summary>
internal readonly record struct LowRankPlace(long Column, long RankStart, float Scale);

/// <summary>A stretch of a contiguous tensor that is put into another of the same type.</summary>
internal readonly record struct CopiedStretch(Tensor From, long FromElement, Tensor To, long ToElement, long Count);

/// <summary>Finds the kernels for a tensor's memory.</summary>
internal static class StepKernels
{
    /// <summary>What makes operations where a tensor lies; null where nothing does.</summary>
    public static IStepKernels? Of(Tensor x) => Engine.Cuda.KernelDevice.Of(x) is { } device ? new DeviceSteps(device) : CpuRows.Serves(x) ? ProcessorSteps.Instance : null;
}
