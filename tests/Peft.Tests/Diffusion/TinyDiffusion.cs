using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Diffusion;
using Peft.Diffusion.Schedulers;
using Peft.Models;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>A diffusion model of one convolution and a vector for each word: images four times smaller are its latents.</summary>
internal sealed class TinyDiffusion : PretrainedModel, ILatentDiffusion
{
    private const int Length = 4;
    private readonly Convolution _convolution;
    private readonly Embedding _words;

    private TinyDiffusion()
        : base(new ModelConfig([]), "TinyDiffusion")
    {
        _convolution = Add("unet", new Convolution(3, 3, [3, 3], new ConvolutionShape(Padding: 1)));
        _words = Add("text_encoder", new Embedding(32, 3));
    }

    public SchedulerConfig SchedulerConfig { get; } = new(new JsonObject { ["beta_schedule"] = "scaled_linear" });

    public int SizeStep => 8;

    public int NativeSize => 32;

    public bool ReadsSizes => false;

    public static PeftModel Create()
    {
        manual_seed(1);
        var model = new TinyDiffusion();
        foreach (var (_, parameter, _) in model.NamedParameters())
        {
            parameter.Assign(randn(parameter.Shape.ToArray()).mul(0.3));
        }

        return new PeftModel(model, "tiny");
    }

    public bool IsOfTextEncoder(string path) => path.StartsWith("text_encoder", StringComparison.Ordinal);

    public bool IsOfImageEncoder(string path) => false;

    public IReadOnlyList<Tensor> Tokenize(string prompt, AdapterSelection? selection = null) =>
        [tensor([.. prompt.Split(' ').Select(static word => word.Sum(static letter => (long)letter) % 31).Concat(Enumerable.Repeat(31L, Length)).Take(Length)], [1, Length], ScalarType.Int64)];

    public TextCondition EncodeText(IReadOnlyList<Tensor> ids, ForwardContext context) =>
        new(Step(context, static given => given[0].view(-1, Length, 3), _words.Forward(ids[0], context with { Rows = ids[0].size(0), Length = Length })));

    public (Tensor Mean, Tensor Deviation) EncodeImages(Tensor pixels)
    {
        var mean = nn.functional.avg_pool2d(pixels, 4);
        return (mean, full_like(mean, 0.01));
    }

    public Tensor Predict(Tensor latents, IReadOnlyList<double> timesteps, TextCondition text, Tensor? sizes, ForwardContext context) =>
        Step(context, static given => given[0].add(given[1].mean([1]).view(-1, 3, 1, 1)), _convolution.Forward(latents, context), text.States);

    private static Tensor Step(ForwardContext context, Func<IReadOnlyList<Tensor>, Tensor> function, params Tensor[] inputs) =>
        context.Tape is { } tape ? tape.Autograd(function, inputs, []) : function(inputs);
}
