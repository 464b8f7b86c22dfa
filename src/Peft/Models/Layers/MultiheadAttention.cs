using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// Attention both ways as PyTorch's <c>MultiheadAttention</c> has it: one weight for queries, keys and values, and an output layer.
/// Adapters adapt both where they target the module.
/// </summary>
public sealed class MultiheadAttention : Module, IAdaptable
{
    private readonly Linear _output;
    private readonly AttentionShape _shape;

    /// <summary>Makes a layer without weights.</summary>
    /// <param name="width">Width of input and output.</param>
    /// <param name="heads">Number of heads.</param>
    public MultiheadAttention(long width, long heads)
    {
        _shape = new AttentionShape(heads, heads, width / heads, 1 / Math.Sqrt(width / heads));
        (Inputs, Outputs) = (width, 3 * width);
        Weight = AddParameter("in_proj_weight", [Outputs, Inputs]);
        Bias = AddParameter("in_proj_bias", [Outputs]);
        _output = Add("out_proj", new Linear(width, width, hasBias: true));
        Adaptables = [this, new OutputLayer(this, _output)];
    }

    /// <summary>Width of the input.</summary>
    public long Inputs { get; }

    /// <summary>Width of queries, keys and values together.</summary>
    public long Outputs { get; }

    /// <summary>[3 · width, width]: queries, keys, values.</summary>
    public Parameter Weight { get; }

    /// <summary>[3 · width].</summary>
    public Parameter? Bias { get; }

    /// <inheritdoc/>
    public override IReadOnlyList<IAdaptable> Adaptables { get; }

    /// <summary>Runs attention of a row to itself, without positions.</summary>
    /// <param name="x">[rows · length, width].</param>
    /// <param name="plan">Who may see whom.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows · length, width].</returns>
    public Tensor Forward(Tensor x, AttentionPlan plan, ForwardContext context)
    {
        context.InputObserver?.Invoke(this, x);
        var acting = Weight.Slot?.Plan(context) ?? SlotPlan.Empty;
        var projections = acting.NeedsForward
            ? Weight.Slot!.Forward(x, context, (input, inner) => Product(input, SlotPlan.Empty, inner))
            : Product(x, acting, context);
        return _output.Forward(Attention.Forward(projections, _shape, null, plan, null, context), context);
    }

    /// <inheritdoc/>
    public Tensor Apply(Tensor x, Tensor weight, Tensor? bias)
    {
        var y = IAdaptable.Multiply(x, weight);
        return bias is null ? y : y + bias;
    }

    private Tensor Product(Tensor x, SlotPlan plan, ForwardContext context)
    {
        var member = new LinearMember(Weight.Effective(context), Bias!.Effective(context), plan.LowRank);
        return LinearProduct.Run(x, member.Weight.Data, member.Bias!.Data, [member], context);
    }

    /// <summary>The output layer as PEFT sees it: inside the module that it wraps.</summary>
    internal sealed class OutputLayer(MultiheadAttention owner, Linear layer) : IAdaptable
    {
        public Module Module => layer;

        public string Path => $"{owner.Path}.base_layer.{layer.Name}";

        public Parameter Weight => layer.Weight;

        public Parameter? Bias => layer.Bias;

        public long Inputs => layer.Inputs;

        public long Outputs => layer.Outputs;

        public Tensor Apply(Tensor x, Tensor weight, Tensor? bias) => layer.Apply(x, weight, bias);
    }
}
