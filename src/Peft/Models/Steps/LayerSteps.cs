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
        var (weight, bias, residual, members) = product;
        if (!recorder.Accepts(y, x, residual) || bias is not null && !CpuRows.Serves(bias))
        {
            recorder.Refuse();
            return;
        }

        var output = ProductOutput.Of(y, bias, residual);
        if (weight is null)
        {
            if (Packed(members, x, output) is not { } packed)
            {
                recorder.Refuse();
                return;
            }

            recorder.Add(packed, y, x, bias, residual);
        }
        else if (RowProduct.Serves(x, weight))
        {
            recorder.Add(new RowProductOperation(x, weight, output), y, x, weight, bias, residual);
        }
        else if (ColumnProduct.Serves(x, weight))
        {
            using var rows = weight.t();
            var sums = new ColumnSumsOperation(x, rows);
            recorder.Add(sums, y, x, weight);
            recorder.Add(new ColumnEndOperation(sums, output), y, bias, residual);
        }
        else
        {
            recorder.Refuse();
            return;
        }

        LowRank(recorder, x, y, changes.Terms, changes.Products);
    }

    /// <summary>An attention of one token over the cache.</summary>
    /// <param name="recorder">Takes it down.</param>
    /// <param name="call">The geometry.</param>
    /// <param name="inputs">Projections side by side, or queries, keys and values.</param>
    /// <param name="output">What it gave.</param>
    /// <param name="state">Where keys and values are stored: those of all tokens, or an encoder's; null where they aren't.</param>
    /// <param name="bias">What is added to scores; null for nothing.</param>
    public static void Attention(StepRecorder recorder, AttentionCall call, Tensor[] inputs, Tensor output, LayerState? state, Tensor? bias)
    {
        var shape = call.Shape;
        var memory = recorder.Memory;
        var plan = memory.SlotOf(call.Plan);
        var rotary = call.Rotary is null ? -1 : memory.SlotOf(call.Rotary);
        var added = bias is null ? -1 : memory.SlotOf(bias);
        if (state is null || call.Prefix > 0 || (call.Keys != 1 && state is KeyValueState) || plan < 0 || (bias is not null && added < 0) || (call.Rotary is not null && (rotary < 0 || call.Rotary.QueryScale is not null || !Turns(call.Rotary, inputs[0])))
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
        var pass = new StepAttention(memory, state, (rotary, plan, added), call.AreStored);
        var sizes = new StepHeads((int)shape.Heads, (int)shape.KeyValueHeads, (int)shape.HeadSize, (int)shape.ValueSize, (float)shape.Scale);
        var rotate = new RotateOperation(pass, sizes, queries, stored);
        recorder.Add(rotate, output, inputs);
        recorder.Add(new AttendOperation(pass, sizes, rotate.Turned, output), output);
    }

    /// <summary>An activation, with or without a gate.</summary>
    public static void Activation(StepRecorder recorder, Tensor x, Tensor y, ActivationForm form, bool isGated)
    {
        if (recorder.Accepts(y, x))
        {
            recorder.Add(new ActivationOperation(x, y, form, isGated), y, x);
        }
    }

    /// <summary>Tensors side by side.</summary>
    public static void Concatenation(StepRecorder recorder, Tensor[] parts, Tensor joined)
    {
        if (!recorder.Accepts(joined, parts))
        {
            return;
        }

        var copy = new CopyOperation();
        long start = 0;
        foreach (var part in parts)
        {
            copy.Add(part, 0, joined, start, part.size(1));
            start += part.size(1);
        }

        recorder.Add(copy, joined, parts);
    }

    private static bool Turns(RotaryTables tables, Tensor x) =>
        CpuRows.Serves(tables.Cosine) && CpuRows.Serves(tables.Sine) && tables.Cosine.dtype == x.dtype && tables.Cosine.NumberOfElements == tables.Cosine.size(-1);

    private static void LowRank(StepRecorder recorder, Tensor x, Tensor y, LowRankTerm[] terms, IReadOnlyList<LowRankProduct> products)
    {
        if (terms.Length == 0)
        {
            return;
        }

        using var scope = NewDisposeScope();
        var (down, inner) = (products[0].Stacked, products[0].Products);
        var factors = Array.ConvertAll(terms, term => term.Change.FactorB(x.dtype));
        if (products.Count != 1 || !RowProduct.Serves(x, down) || Array.Exists(terms, static term => term.Change is not { Bias: null, Magnitude: null }) || !Array.TrueForAll(factors, CpuRows.Serves) || !recorder.Accepts(inner, x))
        {
            recorder.Refuse();
            return;
        }

        recorder.Add(new RowProductOperation(x, down, ProductOutput.Of(inner, null, null)), inner, down);
        for (var i = 0; i < terms.Length; i++)
        {
            recorder.Add(new LowRankOperation(inner, y, factors[i], terms[i].Column, terms[i].RankStart, (float)terms[i].Change.Scale), y, factors[i]);
        }
    }

    private static StepOperation? Packed(LinearMember[] members, Tensor x, ProductOutput output)
    {
        var operations = new List<StepOperation>();
        long column = 0;
        foreach (var member in members)
        {
            if (member.Weight.Packed!.Step(x, output.From(column)) is not { } operation)
            {
                operations.ForEach(static made => made.Dispose());
                return null;
            }

            operations.Add(operation);
            column += member.Width;
        }

        return operations.Count == 1 ? operations[0] : new JoinedOperation(operations);
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
internal sealed class StepAttention(StepMemory memory, LayerState state, (int Rotary, int Plan, int Bias) slots, bool areStored) : IStepAttention
{
    public StepRotation? Rotation => slots.Rotary < 0 ? null : memory.RotationOf(slots.Rotary);

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
