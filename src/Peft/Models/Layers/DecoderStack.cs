using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>Runs blocks one after another: frees what no piece kept, sees cancellation, and keeps inputs alone where asked to.</summary>
internal static class DecoderStack
{
    /// <summary>The output of the last block, and with <see cref="ForwardContext.KeepsHiddenStates"/> the input of every block.</summary>
    /// <param name="blocks">The blocks.</param>
    /// <param name="x">Input of the first block; the caller's.</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="run">Runs one block.</param>
    public static (Tensor Output, IReadOnlyList<Tensor>? Inputs) Run<TBlock>(
        IReadOnlyList<TBlock> blocks, Tensor x, ForwardContext context, Func<TBlock, Tensor, ForwardContext, Tensor> run)
        where TBlock : Module
    {
        var input = x;
        List<Tensor>? inputs = context.KeepsHiddenStates ? [] : null;
        foreach (var block in blocks)
        {
            context.Cancellation.ThrowIfCancellationRequested();
            var output = context is { Checkpointing: true, Tape: { } tape }
                ? tape.Checkpoint((value, inner) => run(block, value, inner), input, context, Trains(block, context))
                : run(block, input, context);
            inputs?.Add(input);
            if (inputs is null && !ReferenceEquals(input, x))
            {
                // Pieces hold what they need by handles of their own.
                input.Dispose();
            }

            input = output;
        }

        return (input, inputs);
    }

    private static bool Trains(Module block, ForwardContext context) => block.NamedParameters().Any(named =>
    {
        var plan = named.Parameter.Slot?.Plan(context) ?? SlotPlan.Empty;
        return plan.NeedsForward || new LinearMember(named.Parameter.Effective(context), null, plan.LowRank).IsTrained;
    });
}
