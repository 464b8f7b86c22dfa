using Peft.Models.Placement;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>
/// The pieces of a forward pass in order. The backward pass runs them in reverse, each once, adds gradients of parameters
/// into <see cref="Parameter.Gradient"/> and drops what a piece kept as soon as it has run. A list of pieces, no second autograd:
/// what passes between pieces is identified by the tensor object, so a view taken outside a piece is an error, never a gradient lost in silence.
/// </summary>
public sealed class Tape : IDisposable
{
    private readonly List<Entry> _entries = [];

    private readonly Dictionary<Tensor, Mark> _known = new(ReferenceEqualityComparer.Instance);

    // Outputs that need not be kept, by the piece that forms them again.
    private readonly Dictionary<Tensor, Piece> _sources = new(ReferenceEqualityComparer.Instance);

    private readonly List<Tensor> _shared = [];

    /// <summary>Number of pieces that will run backward.</summary>
    public int Count => _entries.Count;

    /// <summary>Memory that these pieces keep, as <see cref="Piece.KeptBytes"/> counts it.</summary>
    internal long KeptBytes => _entries.Sum(static entry => entry.Piece.KeptBytes);

    /// <summary>Introduces a tensor that comes from outside (embeddings of ids, a checkpointed block's input).</summary>
    /// <param name="tensor">The tensor.</param>
    /// <param name="needsGradient">Whether its gradient is asked for.</param>
    public void AddRoot(Tensor tensor, bool needsGradient = false) => _known[tensor] = new Mark(needsGradient, IsKept: true);

    /// <summary>Whether the backward pass brings a gradient to this tensor.</summary>
    /// <exception cref="InvalidOperationException">The tensor is neither a root nor a piece's output.</exception>
    public bool NeedsGradient(Tensor tensor) => MarkOf(tensor).NeedsGradient;

    /// <summary>Takes over a tensor that many pieces read in both directions (a mask, a table of positions) until the tape is disposed.</summary>
    public void Share(Tensor tensor) => _shared.Add(tensor.DetachFromDisposeScope());

    /// <summary>The piece that can form this tensor again until its own backward pass has run, or null: then whoever needs the tensor keeps it.</summary>
    public Piece? SourceOf(Tensor tensor) => _sources.GetValueOrDefault(tensor);

    /// <summary>
    /// Records a piece. Where no input needs a gradient and the piece trains nothing, only the outputs become known and the piece is disposed:
    /// the backward pass stops below the lowest adapter by itself.
    /// </summary>
    /// <param name="piece">The piece, holding what its backward pass needs.</param>
    /// <param name="inputs">Tensors that came from roots or earlier pieces.</param>
    /// <param name="outputs">Tensors that go to later pieces.</param>
    /// <param name="trains">Whether the piece adds to a parameter's gradient.</param>
    /// <exception cref="InvalidOperationException">An input comes from outside the tape, or would be overwritten while another piece reads it.</exception>
    public void Record(Piece piece, IReadOnlyList<Tensor> inputs, IReadOnlyList<Tensor> outputs, bool trains)
    {
        var needs = new bool[inputs.Count];
        var any = trains;
        for (var i = 0; i < inputs.Count; i++)
        {
            needs[i] = NeedsGradient(inputs[i]);
            any |= needs[i];
        }

        foreach (var output in outputs)
        {
            _known[output] = new Mark(any, piece.KeepsOutputs);
        }

        if (any)
        {
            MarkRead(piece, inputs);
            _entries.Add(new Entry(piece, [.. inputs], [.. outputs], needs));
            if (piece.CanRecompute)
            {
                _sources[outputs[0]] = piece;
            }
        }
        else
        {
            piece.Dispose();
        }
    }

    /// <summary>
    /// Runs <paramref name="function"/> as a piece that has no backward pass of its own: autograd over itself alone.
    /// Trained parameters that the function reads must be named, and must be leaves that require gradients.
    /// </summary>
    /// <param name="function">Maps the inputs to one output; may read the parameters' values.</param>
    /// <param name="inputs">Tensors from roots or earlier pieces.</param>
    /// <param name="parameters">Parameters the function reads; frozen ones may be among them.</param>
    /// <returns>The output, detached.</returns>
    public Tensor Autograd(Func<IReadOnlyList<Tensor>, Tensor> function, IReadOnlyList<Tensor> inputs, IReadOnlyList<Parameter> parameters)
    {
        var trained = parameters.Where(static parameter => parameter.IsTrained).ToArray();
        if (trained.Length == 0 && !inputs.Any(NeedsGradient))
        {
            var constant = function(inputs);
            _known[constant] = new Mark(NeedsGradient: false, IsKept: false);
            return constant;
        }

        var piece = AutogradPiece.Run(function, inputs, [.. inputs.Select(NeedsGradient)], trained);
        var output = piece.DetachedOutput();
        Record(piece, inputs, [output], trained.Length > 0);
        return output;
    }

    /// <summary>
    /// Runs <paramref name="block"/> without keeping more than its inputs, and again with a tape of its own in the backward pass. What the
    /// context brings along for the tape (a prompt) is an input too.
    /// </summary>
    /// <param name="block">Maps inputs to outputs; called with a context that has no tape, then with one that has.</param>
    /// <param name="inputs">Tensors from roots or earlier pieces.</param>
    /// <param name="context">The forward pass, whose tape this is.</param>
    /// <param name="trains">Whether the block trains anything.</param>
    /// <param name="residence">Brings the block's weights to where they are computed with; null where they are there.</param>
    internal IReadOnlyList<Tensor> Checkpoint(
        Func<IReadOnlyList<Tensor>, ForwardContext, IReadOnlyList<Tensor>> block, IReadOnlyList<Tensor> inputs, ForwardContext context, bool trains, BlockResidence? residence = null)
    {
        Tensor[] states = [.. context.AllGenerators.Select(static generator => generator.get_state())];
        IReadOnlyList<Tensor> outputs;
        using (residence?.Enter())
        {
            outputs = block(inputs, context with { Tape = null });
        }

        IReadOnlyList<Tensor> all = [.. inputs, .. context.TapeTensors];
        Record(new CheckpointPiece(block, all, inputs.Count, context, states, [.. all.Select(NeedsGradient)]) { Residence = residence }, all, outputs, trains);
        return outputs;
    }

    /// <summary>Runs all pieces in reverse.</summary>
    /// <param name="output">The tensor to start from: the last piece's output.</param>
    /// <param name="gradient">Its gradient, or null for 1 (a loss). The tape does not own it.</param>
    /// <param name="cancellation">Looked at between pieces.</param>
    public void Backward(Tensor output, Tensor? gradient = null, CancellationToken cancellation = default)
    {
        using var gradients = new GradientMap();
        using (NewDisposeScope())
        {
            gradients.Add(output, gradient ?? ones_like(output), owned: gradient is null);
        }

        RunBackward(gradients, cancellation);
    }

    /// <summary>Runs all pieces in reverse from several outputs and returns the gradients of roots; the caller owns them.</summary>
    internal Tensor?[] BackwardTo(IReadOnlyList<(Tensor Output, Tensor Gradient)> outputs, IReadOnlyList<Tensor> roots, CancellationToken cancellation)
    {
        using var gradients = new GradientMap();
        foreach (var (output, gradient) in outputs)
        {
            gradients.Add(output, gradient, owned: false);
        }

        RunBackward(gradients, cancellation);
        return [.. roots.Select(gradients.Take)];
    }

    private void RunBackward(GradientMap gradients, CancellationToken cancellation)
    {
        using var noGrad = no_grad();
        for (var i = _entries.Count - 1; i >= 0; i--)
        {
            cancellation.ThrowIfCancellationRequested();
            var entry = _entries[i];
            using var scope = NewDisposeScope();
            var call = new PieceGradients(gradients, entry.Inputs, entry.Outputs, entry.Needs);
            try
            {
                if (call.HasOutput)
                {
                    entry.Piece.Backward(call);
                }
            }
            finally
            {
                call.DisposeOutputs();
            }

            entry.Piece.Dispose();
            _entries.RemoveAt(i);
        }
    }

    /// <summary>Drops every piece that has not run.</summary>
    public void Dispose()
    {
        foreach (var entry in _entries)
        {
            entry.Piece.Dispose();
        }

        foreach (var tensor in _shared)
        {
            tensor.Dispose();
        }

        _shared.Clear();
        _entries.Clear();
        _known.Clear();
        _sources.Clear();
    }

    private Mark MarkOf(Tensor tensor) => _known.TryGetValue(tensor, out var mark)
        ? mark
        : throw new InvalidOperationException(
            "A tensor reached a piece from outside the tape; its gradient would be lost. Pass on the tensor a piece returned, or form views inside a piece.");

    /// <summary>Whether no piece keeps or reads a tensor so far, so that the next one may write over it in the backward pass.</summary>
    internal bool IsFree(Tensor tensor) => MarkOf(tensor) is { IsKept: false, IsRead: false };

    /// <summary>A piece that writes over its input in the backward pass must be the only one that has it.</summary>
    private void MarkRead(Piece piece, IReadOnlyList<Tensor> inputs)
    {
        foreach (var input in inputs)
        {
            var mark = MarkOf(input);
            if (mark.IsOverwritten || (piece.OverwritesInputs && (mark.IsRead || mark.IsKept)))
            {
                throw new InvalidOperationException(
                    $"{piece.GetType().Name} reads a tensor that a piece writes over in the backward pass: another piece reads or keeps it too. Give one of them a copy.");
            }

            _known[input] = mark with { IsRead = true, IsOverwritten = piece.OverwritesInputs };
        }
    }

    /// <summary>What the tape knows of a tensor.</summary>
    /// <param name="NeedsGradient">Whether a gradient is wanted: something trained lies upstream.</param>
    /// <param name="IsKept">Whether what it came from keeps its memory.</param>
    /// <param name="IsRead">Whether a piece has it as an input.</param>
    /// <param name="IsOverwritten">Whether that piece writes over it.</param>
    private readonly record struct Mark(bool NeedsGradient, bool IsKept, bool IsRead = false, bool IsOverwritten = false);

    private sealed record Entry(Piece Piece, Tensor[] Inputs, Tensor[] Outputs, bool[] Needs);
}
