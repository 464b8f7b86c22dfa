using Peft.Engine;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Engine;

/// <summary>Random numbers of a device whose generator the engine can't make.</summary>
public sealed class RandomDrawTests
{
    [Fact]
    public void A_device_without_a_generator_of_ours_has_its_own_seeded_for_each_draw_repeatably()
    {
        using var generator = new Generator(7);
        using var state = generator.get_state();
        var first = Seeds(generator, 3);
        generator.set_state(state);
        Assert.Equal(first, Seeds(generator, 3));
        Assert.Equal(3, first.Distinct().Count());
    }

    [Fact]
    public void A_generator_of_the_device_itself_is_drawn_from()
    {
        using var generator = new Generator(7);
        Assert.Same(generator, RandomDraws.On(DeviceType.CPU, generator));
        Assert.Same(generator, RandomDraws.On(DeviceType.CUDA, generator, isOfDevice: true, static _ => Assert.Fail("no seed is needed")));
        Assert.Null(RandomDraws.On(DeviceType.CUDA, null));
    }

    private static List<long> Seeds(Generator generator, int count)
    {
        List<long> seeds = [];
        for (var i = 0; i < count; i++)
        {
            Assert.Null(RandomDraws.On(DeviceType.CUDA, generator, isOfDevice: false, seeds.Add));
        }

        return seeds;
    }
}
