using Peft.Engine;
using Peft.Models.Steps;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>What a stack of blocks gave.</summary>
/// <param name="Output">The output of the last block.</param>
/// <param name="Inputs">The input of every block; null unless <see cref="ForwardContext.KeepsHiddenStates"/>.</param>
/// <param name="Sides">What each block gave beside its output (a router's scores); empty lists where nothing.</param>
internal sealed record StackOutput(Tensor Output, IReadOnlyList<Tensor>? Inputs, IReadOnlyList<IReadOnlyList<Tensor>> Sides)
{
    /// <summary>The sides of all blocks in one list.</summary>
    public IReadOnlyList<Tensor> AllSides => [.. Sides.SelectMany(static sides => sides)];

    /// <summary>The sides of all blocks, others in their places.</summary>
    public IReadOnlyList<IReadOnlyList<Tensor>> SidesBy(Func<Tensor, Tensor> map) => AllSides.Count == 0 ? Sides : [.. Sides.Select(sides => sides.Select(map).ToArray())];
}

/// <summary>
/// Runs blocks one after another: frees what no piece kept, sees cancellation, and keeps inputs alone where asked to. A block whose weights lie elsewhere has
/// them here while it runs, and keeps its inputs alone in any case: they come once more for its backward pass, and serve both its runs there.
/// </summary>
internal static class DecoderStack
{
    /// <summary>Runs blocks that map one tensor to one.</summary>
    /// <param name="blocks">The blocks.</param>
    /// <param name="x">Input of the first block; the caller's.</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="run">Runs one block.</param>
    public static StackOutput Run<TBlock>(
        IReadOnlyList<TBlock> blocks, Tensor x, ForwardContext context, Func<TBlock, Tensor, ForwardContext, Tensor> run)
        where TBlock : Module =>
        Run(blocks, x, [], context, (block, inputs, inner) => [run(block, inputs[0], inner)]);

    /// <summary>Runs blocks that all read some tensors beside their input (a bias of positions, an encoder's output), or give something beside their output.</summary>
    /// <param name="blocks">The blocks.</param>
    /// <param name="x">Input of the first block; the caller's.</param>
    /// <param name="shared">What every block reads, known to the tape; the caller's.</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="run">Runs one block on its input and the shared tensors; the first of what it returns is the next block's input.</param>
    public static StackOutput Run<TBlock>(
        IReadOnlyList<TBlock> blocks,
        Tensor x,
        IReadOnlyList<Tensor> shared,
        ForwardContext context,
        Func<TBlock, IReadOnlyList<Tensor>, ForwardContext, IReadOnlyList<Tensor>> run)
        where TBlock : Module =>
        Run(blocks, x, _ => shared, context, run);

    /// <summary>Runs blocks that read tensors of their own beside their input, such as what earlier blocks gave beside their output.</summary>
    /// <param name="blocks">The blocks.</param>
    /// <param name="x">Input of the first block; the caller's.</param>
    /// <param name="beside">What the next block reads, known to the tape, from the sides of those before it.</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="run">Runs one block on its input and those tensors; the first of what it returns is the next block's input.</param>
    public static StackOutput Run<TBlock>(
        IReadOnlyList<TBlock> blocks,
        Tensor x,
        Func<IReadOnlyList<IReadOnlyList<Tensor>>, IReadOnlyList<Tensor>> beside,
        ForwardContext context,
        Func<TBlock, IReadOnlyList<Tensor>, ForwardContext, IReadOnlyList<Tensor>> run)
        where TBlock : Module => StepMemory.Of(x, context) is { } steps && !blocks.Any(static block => block.Residence is not null)
            ? steps.Run(blocks, x, context, (input, inner) => Compute(blocks, input, beside, inner, run))
            : Compute(blocks, x, beside, context, run);

    private static StackOutput Compute<TBlock>(
        IReadOnlyList<TBlock> blocks,
        Tensor x,
        Func<IReadOnlyList<IReadOnlyList<Tensor>>, IReadOnlyList<Tensor>> beside,
        ForwardContext context,
        Func<TBlock, IReadOnlyList<Tensor>, ForwardContext, IReadOnlyList<Tensor>> run)
        where TBlock : Module
    {
        var input = x;
        List<Tensor>? kept = context.KeepsHiddenStates ? [] : null;
        List<IReadOnlyList<Tensor>> sides = [];
        foreach (var block in blocks)
        {
            context.Cancellation.ThrowIfCancellationRequested();
            IReadOnlyList<Tensor> inputs = [input, .. beside(sides)];
            if (context is { Tape: not null, Checkpointing: true })
            {
                FreedMemory.GiveBackGrowth();
            }

            var outputs = context.Tape is { } tape && (context.Checkpointing || block.Residence is not null)
                ? tape.Checkpoint((values, inner) => run(block, values, inner), inputs, context, Trains(block, context), block.Residence)
                : Resident(block, () => run(block, inputs, context));
            kept?.Add(input);
            if (kept is null && !ReferenceEquals(input, x))
            {
                // Pieces hold what they need by handles of their own.
                input.Dispose();
            }

            input = outputs[0];
            sides.Add([.. outputs.Skip(1)]);
        }

        return new StackOutput(input, kept, sides);
    }

    /// <summary>Runs a block while its weights are where they are computed with.</summary>
    private static IReadOnlyList<Tensor> Resident(Module block, Func<IReadOnlyList<Tensor>> run)
    {
        using var stay = block.Residence?.Enter();
        return run();
    }

    /// <summary>The outputs of a block, moved out of its dispose scope.</summary>
    public static IReadOnlyList<Tensor> Kept(IReadOnlyList<Tensor> outputs)
    {
        foreach (var output in outputs)
        {
            output.MoveToOuterDisposeScope();
        }

        return outputs;
    }

    /// <summary>Whether a pass trains anything in a block.</summary>
    public static bool Trains(Module block, ForwardContext context) => block.NamedParameters().Any(named =>
    {
        var plan = named.Parameter.Slot?.Plan(context) ?? SlotPlan.Empty;
        return plan.NeedsForward || new LinearMember(named.Parameter.Effective(context), null, plan.LowRank, Change: plan.Weight).IsTrained;
    });
}
