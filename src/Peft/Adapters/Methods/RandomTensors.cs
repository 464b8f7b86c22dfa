using Peft.Engine;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods;

/// <summary>Tensors with which adapters start. Random ones are drawn on the CPU, so that a seed gives the same adapter on every device.</summary>
internal static class RandomTensors
{
    /// <summary>Zeros, the start that changes nothing.</summary>
    public static Tensor Zeros(IReadOnlyList<long> shape, Device device) => zeros([.. shape], device: device);

    /// <summary>Uniform in ±bound.</summary>
    public static Tensor Uniform(IReadOnlyList<long> shape, double bound, Generator generator, Device device) =>
        Move(empty([.. shape]).uniform_(-bound, bound, generator), device);

    /// <summary>Normal around zero.</summary>
    public static Tensor Normal(IReadOnlyList<long> shape, double deviation, Generator generator, Device device) =>
        Move(empty([.. shape]).normal_(0, deviation, generator), device);

    /// <summary>The first of a seeded permutation of 0 to <paramref name="total"/> - 1: places that a seed alone chooses.</summary>
    public static Tensor Places(long total, long count, int seed, Device device)
    {
        using var seeded = new Generator((ulong)seed);
        return Move(randperm(total, ScalarType.Int64, generator: seeded).narrow(0, 0, count).contiguous(), device);
    }

    /// <summary>Zero with the given probability, else 1 / (1 - probability); of the shape and type of <paramref name="like"/>.</summary>
    public static Tensor DropoutMask(Tensor like, double probability, Generator? generator) => probability >= 1
        ? zeros_like(like)
        : RandomDraws.Kept(like, 1 - probability, generator).to(like.dtype).div_(1 - probability);

    private static Tensor Move(Tensor tensor, Device device) => device.type == DeviceType.CPU ? tensor : tensor.to(device);
}
