using Peft.Engine;
using Peft.Models.Steps;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>An activation by the name configurations give it.</summary>
public sealed class Activation : Module
{
    private const double LeakySlope = 0.01;

    private readonly Func<Tensor, Tensor> _function;

    /// <summary>Looks the activation up.</summary>
    /// <param name="name">Such as <c>silu</c> or <c>gelu_pytorch_tanh</c>.</param>
    /// <param name="className">transformers' class name where a family has its own; null for the activation's.</param>
    /// <param name="details">What it prints.</param>
    /// <exception cref="NotSupportedByPeftException"><c>ActivationNotSupported</c>.</exception>
    public Activation(string name, string? className = null, string details = "")
        : this(Lookup(name), className)
    {
        Details = name == "leaky_relu" && details.Length == 0 ? FormattableString.Invariant($"negative_slope={LeakySlope}") : details;
        Form = name switch
        {
            "silu" or "swish" => ActivationForm.Silu,
            "gelu" or "gelu_python" => ActivationForm.Gelu,
            "gelu_new" or "gelu_fast" or "gelu_accurate" or "gelu_pytorch_tanh" or "gelu_python_tanh" => ActivationForm.TanhGelu,
            "quick_gelu" => ActivationForm.QuickGelu,
            "relu" => ActivationForm.Relu,
            "tanh" => ActivationForm.Tanh,
            _ => null,
        };
    }

    private Activation((string ClassName, Func<Tensor, Tensor> Function) found, string? className)
        : base(className ?? found.ClassName)
    {
        _function = found.Function;
    }

    /// <inheritdoc/>
    public override string Details { get; } = "";

    /// <summary>Whether it is x · sigmoid(x).</summary>
    internal bool IsSilu => Form == ActivationForm.Silu;

    /// <summary>The kernel's form of it; null where there is none.</summary>
    internal ActivationForm? Form { get; }

    /// <summary>Applies it as a step of a pass.</summary>
    /// <param name="x">Any shape.</param>
    /// <param name="context">The forward pass.</param>
    public Tensor Forward(Tensor x, ForwardContext context)
    {
        var y = Formed(x);
        context.Tape?.Record(new ActivationPiece(this, x), [x], [y], trains: false);
        if (context.Recorder is { } recorder && Form is { } form)
        {
            LayerSteps.Activation(recorder, x, y, form, isGated: false);
        }

        return y;
    }

    private Tensor Formed(Tensor x) => Form is { } form && CpuRows.Serves(x) && !is_grad_enabled() ? ActivationKernel.Form(form, x) : Apply(x);

    /// <summary>Applies it, element by element.</summary>
    public Tensor Apply(Tensor x) => _function(x);

    // As transformers' table has them (activations.py there); those with weights of their own are missing.
    private static (string ClassName, Func<Tensor, Tensor> Function) Lookup(string name) => name switch
    {
        "silu" => ("SiLUActivation", static x => x.silu()),
        "swish" => ("SiLU", static x => x.silu()),
        "gelu" or "gelu_python" => ("GELUActivation", static x => x.gelu()),
        "gelu_10" => ("ClippedGELUActivation", static x => x.gelu().clamp(-10, 10)),
        "gelu_new" => ("NewGELUActivation", TanhGelu),
        "gelu_fast" => ("FastGELUActivation", TanhGelu),
        "gelu_accurate" => ("AccurateGELUActivation", TanhGelu),
        "gelu_pytorch_tanh" or "gelu_python_tanh" => ("GELUTanh", TanhGelu),
        "quick_gelu" => ("QuickGELUActivation", static x => x.mul(x.mul(1.702).sigmoid_())),
        "relu" => ("ReLU", static x => x.relu()),
        "relu2" => ("ReLUSquaredActivation", static x => x.relu().square()),
        "relu6" => ("ReLU6", static x => x.clamp(0, 6)),
        "leaky_relu" => ("LeakyReLU", static x => x.clamp_min(0).add(x.clamp_max(0).mul(LeakySlope))),
        "hardswish" => ("Hardswish", static x => x.mul(x.add(3).clamp(0, 6)).div(6)),
        "laplace" => ("LaplaceActivation", static x => x.sub(0.707107).div(0.282095 * Math.Sqrt(2)).erf().add(1).mul(0.5)),
        "linear" => ("LinearActivation", static x => x.alias()),
        "mish" => ("MishActivation", static x => x.mul(nn.functional.softplus(x).tanh())),
        "sigmoid" => ("Sigmoid", static x => x.sigmoid()),
        "sqrtsoftplus" => ("SqrtSoftplusActivation", static x => nn.functional.softplus(x).sqrt()),
        "tanh" => ("Tanh", static x => x.tanh()),
        _ => throw new NotSupportedByPeftException("ActivationNotSupported", $"The activation '{name}' is not supported.")
        {
            Target = name,
            RecommendedAction = "Supported are transformers' activations without weights: silu, swish, gelu and its kinds, quick_gelu, relu, relu2, relu6, leaky_relu, hardswish, laplace, linear, mish, sigmoid, sqrtsoftplus and tanh.",
        },
    };

    // Hendrycks and Gimpel 2016, the approximation by tanh.
    private static Tensor TanhGelu(Tensor x) =>
        x.mul(0.5).mul(x.pow(3).mul(0.044715).add(x).mul(Math.Sqrt(2 / Math.PI)).tanh().add(1));

    /// <summary>Keeps its input alone: the output is formed again for whoever needs it.</summary>
    private sealed class ActivationPiece : Piece
    {
        // What a slice takes with all that autograd makes of it stays in the cache.
        private const long SliceElements = 1 << 16;

        private readonly Activation _activation;
        private readonly Tensor _x;

        public ActivationPiece(Activation activation, Tensor x)
        {
            _activation = activation;
            _x = Keep(x);
        }

        public override bool CanRecompute => true;

        // The identity hands its input on.
        public override bool KeepsOutputs => _activation.Form is null;

        public override Tensor Recompute() => _activation.Formed(_x);

        public override void Backward(PieceGradients gradients)
        {
            if (_activation.Form is { } form && ActivationKernel.HasGradient(form) && CpuRows.Serves(_x) && CpuRows.Serves(gradients.Output()))
            {
                var all = gradients.OutputToOverwrite();
                ActivationKernel.Gradient(form, _x, all);
                gradients.Add(0, all.alias());
                return;
            }

            var result = empty_like(_x);
            var rows = _x.dim() > 0 ? _x.size(0) : 1;
            var step = _x.dim() == 0 || _x.device_type != TorchSharp.DeviceType.CPU ? rows : Math.Max(1, SliceElements * rows / Math.Max(1, _x.NumberOfElements));
            for (long start = 0; start < rows; start += step)
            {
                using var slice = NewDisposeScope();
                Tensor Part(Tensor whole) => _x.dim() == 0 ? whole : whole.narrow(0, start, Math.Min(step, rows - start));
                using var grad = enable_grad();
                var leaf = Part(_x).detach().requires_grad_(true);
                var y = _activation.Apply(leaf);
                autograd.backward([y], [Part(gradients.Output())], inputs: [leaf]);
                using var none = no_grad();
                Part(result).copy_(leaf.grad!);
            }

            gradients.Add(0, result);
        }
    }
}
