using Peft.Diffusion.Pipelines;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>What making pictures leaves behind; alone, for the count is the process's.</summary>
[Collection(LiveTensors.Name)]
public sealed class PictureLifetimeTests
{
    [Fact]
    public void A_picture_leaves_no_tensor_behind()
    {
        using var folder = new TemporaryFolder();
        using var model = TinyStableDiffusion.Create(folder.Path);
        var generator = new ImageGenerator(model);
        Make();
        LiveTensors.Settle();
        var before = Tensor.TotalCount;
        Make();
        Assert.Equal(before, Tensor.TotalCount);

        void Make() => generator.Generate("a bird", new ImageOptions { Steps = 2, Seed = 1, Scheduler = "DPMSolverMultistep" });
    }
}
