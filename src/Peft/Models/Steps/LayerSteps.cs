using Peft.Engine;
using Peft.Engine.Steps;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Steps;

/// <summary>The operations that layers record, each for the layer whose name it has.</summary>
internal static class LayerSteps
{
    /// <summary>A linear product, its bias, its residual and its low-rank changes.</summary>
    /// <param name="recorder">Takes it down.</param>
    /// <param name="x">[1, in].</param>
    /// <param name="y">What it gave, [1, out].</param>
    /// <param name="product">What the product is made of.</param>
    /// <param name="changes">The low-rank changes, and the term of each.</param>
    public static void Linear(StepRecorder recorder, Tensor x, Tensor y, LinearSource product, (LowRankTerm[] Terms, IReadOnlyList<LowRankProduct> Products) changes)
    {
        if (!recorder.Accepts(y, x, product.Residual) || recorder.Kernels.Product(x, y, product) is not { } operations)
        {
            recorder.Refuse();
            return;
        }

        recorder.Add(operations, y, x, product.Weight, product.Bias, product.Residual);
        LowRank(recorder, x, y, changes.Terms, changes.Products);
    }

    /// <summary>An attention of one token over the cache.</summary>
    /// <param name="recorder">Takes it down.</param>
    /// <param name="call">The geometry.</param>
    /// <param name="inputs">Projections side by side, or queries, keys and values.</param>
    /// <param name="output">What it gave.</param>
    /// <param name="state">Where keys and values are stored: those of all tokens, or an encoder's; null where they aren't.</param>
    /// <param name="terms">What is added to scores, and one more score a head; null for nothing.</param>
    public static void Attention(StepRecorder recorder, AttentionCall call, Tensor[] inputs, Tensor output, LayerState? state, (Tensor? Bias, Tensor? Sinks) terms)
    {
        var (shape, bias, sinks) = (call.Shape, terms.Bias, terms.Sinks);
        var memory = recorder.Memory;
        var plan = memory.SlotOf(call.Plan);
        var rotary = call.Rotary is null ? -1 : memory.SlotOf(call.Rotary);
        var added = bias is null ? -1 : memory.SlotOf(bias);
        if (state is null || !IsServed(recorder.Kernels, state, bias, sinks) || call.Prefix > 0 || (call.Keys != 1 && state is KeyValueState) || plan < 0 || (bias is not null && added < 0) || (call.Rotary is not null && (rotary < 0 || call.Rotary.QueryScale is not null || !Turns(recorder.Kernels, call.Rotary, inputs[0])))
            || !recorder.Accepts(output, inputs))
        {
            recorder.Refuse();
            return;
        }

        using var scope = NewDisposeScope();
        var (queryWidth, keyWidth, valueWidth) = (shape.Heads * shape.HeadSize, shape.KeyValueHeads * shape.HeadSize, shape.KeyValueHeads * shape.ValueSize);
        var queries = call.IsFused ? inputs[0].narrow(1, 0, queryWidth) : inputs[0];
        (Tensor Keys, Tensor Values)? stored = call.AreStored ? null
            : call.IsFused ? (inputs[0].narrow(1, queryWidth, keyWidth), inputs[0].narrow(1, queryWidth + keyWidth, valueWidth))
            : (inputs[1], inputs[2]);
        var pass = new StepAttention(memory, state, (rotary, plan, added), call.AreStored, sinks);
        var sizes = new StepHeads((int)shape.Heads, (int)shape.KeyValueHeads, (int)shape.HeadSize, (int)shape.ValueSize, (float)shape.Scale);
        if (recorder.Kernels.Attention(pass, sizes, queries, stored, output) is not { } operations)
        {
            recorder.Refuse();
            return;
        }

        recorder.Add(operations, output, [.. inputs, sinks]);
    }

    /// <summary>The experts that a token's scores choose.</summary>
    /// <param name="recorder">Takes it down.</param>
    /// <param name="x">[1, width].</param>
    /// <param name="y">What they gave, [1, width].</param>
    /// <param name="source">What they are made of; null where there is no operation for it.</param>
    public static void Experts(StepRecorder recorder, Tensor x, Tensor y, ExpertSource? source)
    {
        if (source is null || !recorder.Accepts(y, x, source.Logits, source.Residual) || recorder.Kernels.Experts(x, y, source) is not { } operations)
        {
            recorder.Refuse();
            return;
        }

        var (gateUp, down) = (source.GateUp, source.Down);
        recorder.Add(
            operations, y, x, source.Logits, source.Residual, source.Choice.Correction, Dense(gateUp.Weight), Dense(down.Weight), gateUp.Bias?.Data, down.Bias?.Data);

        static Tensor? Dense(Parameter weight) => weight.Packed is null ? weight.Data : null;
    }

    /// <summary>x · sigmoid(gate), with one gate for all.</summary>
    public static void SigmoidGate(StepRecorder recorder, Tensor x, Tensor gate, Tensor y)
    {
        if (recorder.Accepts(y, x, gate))
        {
            recorder.Add(gate.NumberOfElements == 1 ? recorder.Kernels.SigmoidGate(x, gate, y) : null, y, x, gate);
        }
    }

    /// <summary>An activation, with or without a gate.</summary>
    public static void Activation(StepRecorder recorder, Tensor x, Tensor y, ActivationForm form, bool isGated)
    {
        if (recorder.Accepts(y, x))
        {
            recorder.Add(recorder.Kernels.Activation(x, y, form, isGated), y, x);
        }
    }

    /// <summary>A root mean square norm.</summary>
    /// <param name="recorder">Takes it down.</param>
    /// <param name="x">[rows, …, width].</param>
    /// <param name="weight">[width], of the same type.</param>
    /// <param name="y">What it gave.</param>
    /// <param name="epsilon">Added to the mean square.</param>
    public static void RmsNorm(StepRecorder recorder, Tensor x, Tensor weight, Tensor y, double epsilon)
    {
        if (recorder.Accepts(y, x))
        {
            recorder.Add(recorder.Kernels.RmsNorm(x, weight, y, (int)weight.size(0), epsilon), y, x, weight);
        }
    }

    /// <summary>A layer norm.</summary>
    /// <param name="recorder">Takes it down.</param>
    /// <param name="x">[rows, width].</param>
    /// <param name="weight">[width], float32.</param>
    /// <param name="bias">[width], float32, or null.</param>
    /// <param name="y">What it gave.</param>
    /// <param name="epsilon">Added to the variance.</param>
    public static void LayerNorm(StepRecorder recorder, Tensor x, Tensor weight, Tensor? bias, Tensor y, double epsilon)
    {
        if (recorder.Accepts(y, x))
        {
            recorder.Add(recorder.Kernels.LayerNorm(x, weight, bias, y, (int)weight.size(0), epsilon), y, x, weight, bias);
        }
    }

    /// <summary>left + scale · right; scale · right where there is no left one.</summary>
    public static void Sum(StepRecorder recorder, Tensor? left, Tensor right, Tensor y, double scale)
    {
        if (recorder.Accepts(y, left, right))
        {
            recorder.Add(recorder.Kernels.Sum(left, right, y, (float)scale), y, left, right);
        }
    }

    /// <summary>Stretches that are put elsewhere in one tensor.</summary>
    public static void Copy(StepRecorder recorder, IReadOnlyList<CopiedStretch> stretches, Tensor y, params ReadOnlySpan<Tensor?> parts)
    {
        if (recorder.Accepts(y, parts))
        {
            recorder.Add(recorder.Kernels.Copy(stretches), y, parts);
        }
    }

    /// <summary>Tensors side by side.</summary>
    public static void Concatenation(StepRecorder recorder, Tensor[] parts, Tensor joined)
    {
        long start = 0;
        var stretches = new List<CopiedStretch>();
        foreach (var part in parts)
        {
            stretches.Add(new CopiedStretch(part, 0, joined, start, part.size(1)));
            start += part.size(1);
        }

        Copy(recorder, stretches, joined, parts);
    }

    private static bool IsServed(IStepKernels kernels, LayerState state, Tensor? bias, Tensor? sinks) =>
        (bias is null || kernels.Serves(bias)) && (sinks is null || kernels.Serves(sinks)) && (state is not TensorState { Values: var values } || values.All(kernels.Serves));

    private static bool Turns(IStepKernels kernels, RotaryTables tables, Tensor x) =>
        kernels.Serves(tables.Cosine) && kernels.Serves(tables.Sine) && tables.Cosine.dtype == x.dtype && tables.Cosine.NumberOfElements == tables.Cosine.size(-1);

    private static void LowRank(StepRecorder recorder, Tensor x, Tensor y, LowRankTerm[] terms, IReadOnlyList<LowRankProduct> products)
    {
        if (terms.Length == 0)
        {
            return;
        }

        using var scope = NewDisposeScope();
        var (down, inner) = (products[0].Stacked, products[0].Products);
        var factors = Array.ConvertAll(terms, term => term.Change.FactorB(x.dtype));
        (Tensor, LowRankPlace)[] changes = [.. terms.Zip(factors, static (term, factor) => (factor, new LowRankPlace(term.Column, term.RankStart, (float)term.Change.Scale)))];
        if (products.Count != 1 || Array.Exists(terms, static term => term.Change is not { Bias: null, Magnitude: null }) || !recorder.Accepts(inner, x)
            || recorder.Kernels.LowRank(x, down, inner, y, changes) is not { } operations)
        {
            recorder.Refuse();
            return;
        }

        recorder.Add(operations, y, [inner, down, .. factors]);
    }
}

/// <summary>What a linear product is made of.</summary>
/// <param name="Weight">[out, in]; null where the members' weights are packed.</param>
/// <param name="Bias">[out] or null.</param>
/// <param name="Residual">[1, out] or null.</param>
/// <param name="Members">The layers.</param>
internal readonly record struct LinearSource(Tensor? Weight, Tensor? Bias, Tensor? Residual, LinearMember[] Members);

/// <summary>What a recorded attention reads of the pass it is run in.</summary>
/// <param name="memory">The pass.</param>
/// <param name="state">Keys and values.</param>
/// <param name="slots">Where the tables of positions, the plan and what is added to scores stand in the pass; -1 for none.</param>
/// <param name="areStored">Whether keys and values are stored already.</param>
/// <param name="sinks">One more score a head; null for none.</param>
internal sealed class StepAttention(StepMemory memory, LayerState state, (int Rotary, int Plan, int Bias) slots, bool areStored, Tensor? sinks) : IStepAttention
{
    public StepRotation? Rotation => slots.Rotary < 0 ? null : memory.RotationOf(slots.Rotary);

    public (Tensor Cosine, Tensor Sine, bool IsInterleaved)? Tables =>
        slots.Rotary < 0 ? null : memory.Given<RotaryTables>(slots.Rotary) is var tables ? (tables.Cosine, tables.Sine, tables.IsInterleaved) : null;

    public Tensor? Sinks => sinks;

    public Tensor? Bias => slots.Bias < 0 ? null : memory.Given<Tensor>(slots.Bias);

    public (Tensor Keys, Tensor Values) Stored => state switch
    {
        TensorState constant => (constant.Values[0], constant.Values[1]),
        KeyValueState growing => areStored ? growing.All : growing.Reserve(memory.Length + 1),
        _ => throw new InvalidOperationException("No keys and values are stored there."),
    };

    public long Position => memory.Length;

    public (long First, long Count, Tensor? Mask) Seen
    {
        get
        {
            var block = memory.Given<AttentionPlan>(slots.Plan).Blocks[0];
            return (block.Key, block.Keys, block.Mask);
        }
    }
}
