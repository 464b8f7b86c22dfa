using Peft.Engine;
using Peft.Models.Placement;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>A block that kept its inputs alone.</summary>
internal sealed class CheckpointPiece : Piece
{
    private readonly Func<IReadOnlyList<Tensor>, ForwardContext, IReadOnlyList<Tensor>> _block;
    private readonly Tensor[] _inputs;
    private readonly int _own;
    private readonly ForwardContext _context;
    private readonly Tensor[] _generatorStates;
    private readonly bool[] _needs;

    public CheckpointPiece(
        Func<IReadOnlyList<Tensor>, ForwardContext, IReadOnlyList<Tensor>> block,
        IReadOnlyList<Tensor> inputs,
        int own,
        ForwardContext context,
        Tensor[] generatorStates,
        bool[] needs)
    {
        _block = block;
        _inputs = [.. inputs.Select(Keep)];
        _own = own;
        _context = context;
        _generatorStates = [.. generatorStates.Select(KeepOwn)];
        _needs = needs;
    }

    /// <summary>Brings the block's weights to where they are computed with; null where they are there.</summary>
    public BlockResidence? Residence { get; init; }

    public override void Backward(PieceGradients gradients)
    {
        if (_context.Checkpointing)
        {
            // Who asked for it wants memory rather than time. Blocks leave holes into which the next one's tensors don't fit: a third of the peak.
            FreedMemory.GiveBackGrowth();
        }

        using var stay = Residence?.Enter();
        using var tape = new Tape();
        for (var i = 0; i < _inputs.Length; i++)
        {
            tape.AddRoot(_inputs[i], _needs[i]);
        }

        var generators = _context.AllGenerators;
        Tensor[] later = [.. generators.Select(static generator => generator.get_state())];

        // The block must draw the dropout masks it drew the first time.
        Restore(generators, _generatorStates);

        var outputs = _block(_inputs[.._own], _context.WithTapeTensors(_inputs[_own..]) with { Tape = tape });
        Restore(generators, later);

        var known = outputs.Select((output, i) => (Output: output, Gradient: gradients.OutputOrNull(i))).Where(static pair => pair.Gradient is not null);
        var found = tape.BackwardTo([.. known.Select(static pair => (pair.Output, pair.Gradient!))], _inputs, _context.Cancellation);
        for (var i = 0; i < found.Length; i++)
        {
            if (found[i] is { } gradient)
            {
                gradients.Add(i, gradient);
            }
        }
    }

    private static void Restore(IReadOnlyList<Generator> generators, Tensor[] states)
    {
        for (var i = 0; i < states.Length; i++)
        {
            generators[i].set_state(states[i]);
        }
    }
}
