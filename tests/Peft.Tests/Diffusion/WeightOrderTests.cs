using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Diffusion;
using Peft.Diffusion.Models;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Tensors;
using Peft.Tests.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>The order in memory of a loaded UNet's weights, which changes nothing but speed.</summary>
public sealed class WeightOrderTests : IDisposable
{
    private const string File = "diffusion_pytorch_model.safetensors";
    private readonly TemporaryFolder _folder = new();

    public WeightOrderTests()
    {
        using var model = TinyStableDiffusion.Create(_folder.Path);
        model.Save(_folder["model"]);
    }

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Weights_lie_in_the_file_until_the_UNet_is_used_and_are_saved_as_they_were()
    {
        using var store = Store();
        using var unet = Load(store);
        var convolutions = Convolutions(unet);
        Assert.NotEmpty(convolutions);
        Assert.All(convolutions, convolution => Assert.True(store.IsMapped(convolution.Weight.Data)));
        var before = Predicted(unet);
        Assert.All(convolutions, static convolution => Assert.True(ImageLayout.IsByPosition(convolution.Weight.Data)));
        Assert.Equal(before, Predicted(unet));
        ModelLoader.Save(unet, _folder["again"]);
        Assert.Equal(Values(_folder["model/unet/" + File]), Values(_folder["again/model.safetensors"]));
    }

    [Fact]
    public void Convolutions_that_had_an_adapter_before_their_first_use_are_ordered_and_its_merge_is_taken_back_bit_for_bit()
    {
        using var model = DiffusionModelFiles.Load(_folder["model"]);
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("conv1", "conv2") }, "lora");
        foreach (var parameter in model.Adapters[0].Adapter.Parameters())
        {
            parameter.Parameter.Data.fill_(0.1);
        }

        var unet = (UNet2DConditionModel)((DiffusionModel)model.Base).Parts.Single(static part => part.Part is UNet2DConditionModel).Part;
        var plain = Convolutions(unet).ToDictionary(static convolution => convolution.Path, static convolution => convolution.Weight.Data.contiguous());
        var before = Predicted(unet, model.NewPass(new ForwardContext()));
        Assert.All(Convolutions(unet), static convolution => Assert.True(ImageLayout.IsByPosition(convolution.Weight.Data)));
        model.Merge();
        TensorAssert.CloseToScale(before, Predicted(unet, model.NewPass(new ForwardContext())), 1e-5);
        model.UndoMerge();
        Assert.All(Convolutions(unet), convolution => Assert.True(convolution.Weight.Data.equal(plain[convolution.Path]).all().item<bool>()));
        Assert.Equal(before, Predicted(unet, model.NewPass(new ForwardContext())));
    }

    private static Convolution[] Convolutions(Module unet) => [.. unet.Descendants().OfType<Convolution>().Where(static convolution => convolution.Kernel.Any(static size => size > 1))];

    private static float[] Predicted(UNet2DConditionModel unet, ForwardContext? pass = null)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var text = new BackboneOutput(linspace(-1, 1, TinyStableDiffusion.Length * 64).view(-1, 64), 1, TinyStableDiffusion.Length);
        return [.. unet.Forward(new UNetInputs(linspace(-2, 2, 4 * 8 * 8).view(1, 4, 8, 8), tensor([500f]), text), pass ?? new ForwardContext()).data<float>()];
    }

    private static Dictionary<string, byte[]> Values(string path)
    {
        using var store = TensorStore.OpenFile(path);
        return store.Names.ToDictionary(static name => name, name => store.Read(name).bytes.ToArray(), StringComparer.Ordinal);
    }

    private TensorStore Store()
    {
        var store = TensorStore.OpenFile(_folder["model/unet/" + File]);
        store.MapSmallFiles();
        return store;
    }

    private UNet2DConditionModel Load(TensorStore store)
    {
        var unet = (UNet2DConditionModel)DiffusionPart.Create(ModelConfig.FromFile(_folder["model/unet/config.json"]));
        ModelLoader.LoadWeights(unet, store);
        return unet;
    }
}
