using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Engine;

/// <summary>
/// Random numbers on the device that needs them, repeatable from a generator. NuGet's TorchSharp makes a generator of the CPU whatever device it
/// is asked for, and libtorch refuses that one elsewhere: there it gives a seed to the device's own generator, once for each draw.
/// </summary>
internal static class RandomDraws
{
    private const long Seeds = 1L << 53;

    /// <summary>True with a probability: what dropout keeps.</summary>
    /// <param name="like">Gives shape and device.</param>
    /// <param name="probability">Of true.</param>
    /// <param name="generator">Where from; null for the global generator.</param>
    public static Tensor Kept(Tensor like, double probability, Generator? generator)
    {
        var kept = empty_like(like, ScalarType.Bool);
        if (like.device_type != DeviceType.CPU)
        {
            return kept.bernoulli_(probability, On(like.device_type, generator));
        }

        using var seed = randint(0, Seeds, [1], ScalarType.Int64, generator: generator);
        DropoutKernel.Fill(kept, probability, seed.item<long>());
        return kept;
    }

    /// <summary>Uniform in [0, 1).</summary>
    public static Tensor Uniform(long[] shape, ScalarType type, Device device, Generator? generator) => rand(shape, type, device, generator: On(device.type, generator));

    /// <summary>What draws on a device for a generator: itself, or null for the device's own, which has its seed then.</summary>
    public static Generator? On(DeviceType device, Generator? generator) =>
        On(device, generator, EngineDescription.IsSystemLibtorch, static seed => cuda.manual_seed_all(seed));

    internal static Generator? On(DeviceType device, Generator? generator, bool isOfDevice, Action<long> seedDevice)
    {
        if (generator is null || device == DeviceType.CPU || isOfDevice)
        {
            return generator;
        }

        using var seed = randint(0, Seeds, [1], ScalarType.Int64, generator: generator);
        seedDevice(seed.item<long>());
        return null;
    }
}
