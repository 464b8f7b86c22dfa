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
    public IReadOnlyList<Tensor> Checkpoint(
        Func<IReadOnlyList<Tensor>, ForwardContext, IReadOnlyList<Tensor>> block, IReadOnlyList<Tensor> inputs, ForwardContext context, bool trains)
    {
        Tensor[] states = [.. context.AllGenerators.Select(static generator => generator.get_state())];
        var outputs = block(inputs, context with { Tape = null });
        IReadOnlyList<Tensor> all = [.. inputs, .. context.TapeTensors];
        Record(new CheckpointPiece(block, all, inputs.Count, context, states, [.. all.Select(NeedsGradient)]), all, outputs, trains);
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

/// <summary>A step of the forward pass that knows its own backward pass and keeps only what that needs.</summary>
public abstract class Piece : IDisposable
{
    private readonly List<Tensor> _kept = [];

    /// <summary>Adds the gradients of inputs to <paramref name="gradients"/> and those of parameters to <see cref="Parameter.Gradient"/>. Runs inside a dispose scope, without autograd.</summary>
    public abstract void Backward(PieceGradients gradients);

    /// <summary>Whether the backward pass writes over the memory of the piece's inputs; the tape then sees to it that nobody else has them.</summary>
    public virtual bool OverwritesInputs => false;

    /// <summary>Whether the piece keeps the memory of its outputs until its backward pass.</summary>
    public virtual bool KeepsOutputs => false;

    /// <summary>Whether <see cref="Recompute"/> gives the piece's only output once more, at little cost.</summary>
    public virtual bool CanRecompute => false;

    /// <summary>Forms the piece's output again from what it kept; for pieces downstream, before this piece's backward pass has run.</summary>
    /// <returns>A tensor of the caller's dispose scope.</returns>
    public virtual Tensor Recompute() => throw new InvalidOperationException($"{GetType().Name} cannot form its output again.");

    /// <summary>Drops what the piece kept.</summary>
    public void Dispose()
    {
        foreach (var tensor in _kept)
        {
            tensor.Dispose();
        }

        _kept.Clear();
        GC.SuppressFinalize(this);
    }

    /// <summary>Keeps a tensor's memory until the backward pass, whatever happens to the caller's handle.</summary>
    protected Tensor Keep(Tensor tensor)
    {
        var handle = tensor.alias().DetachFromDisposeScope();
        _kept.Add(handle);
        return handle;
    }

    /// <summary>Takes over a tensor the piece itself made, without a second handle.</summary>
    protected Tensor KeepOwn(Tensor tensor)
    {
        _kept.Add(tensor.DetachFromDisposeScope());
        return tensor;
    }
}

/// <summary>What a piece's backward pass receives and gives.</summary>
public sealed class PieceGradients
{
    private readonly GradientMap _map;
    private readonly Tensor[] _inputs;
    private readonly bool[] _needs;
    private readonly Tensor?[] _outputGradients;
    private readonly bool[] _owned;

    internal PieceGradients(GradientMap map, Tensor[] inputs, Tensor[] outputs, bool[] needs)
    {
        _map = map;
        _inputs = inputs;
        _needs = needs;
        _outputGradients = new Tensor?[outputs.Length];
        _owned = new bool[outputs.Length];
        for (var i = 0; i < outputs.Length; i++)
        {
            (_outputGradients[i], _owned[i]) = map.TakeWithOwnership(outputs[i]);
        }
    }

    internal bool HasOutput => Array.Exists(_outputGradients, static gradient => gradient is not null);

    /// <summary>The gradient of an output; null when nothing downstream depended on it. Freed after the piece has run.</summary>
    public Tensor? OutputOrNull(int index = 0) => _outputGradients[index];

    /// <summary>The gradient of an output of a piece that has one output, or all of whose outputs are always used.</summary>
    public Tensor Output(int index = 0) => _outputGradients[index] ?? throw new InvalidOperationException("This output received no gradient.");

    /// <summary>The gradient of an output as memory the piece may write into: a copy where someone else still reads it.</summary>
    public Tensor OutputToOverwrite(int index = 0) => _owned[index] ? Output(index) : Output(index).clone();

    /// <summary>Whether a gradient is wanted for this input.</summary>
    public bool Needs(int index = 0) => _needs[index];

    /// <summary>Adds to the gradient of an input; ignored where none is wanted.</summary>
    /// <param name="index">Which input.</param>
    /// <param name="gradient">Of the input's shape.</param>
    /// <param name="owned">False when the tensor is an output's gradient passed on, or otherwise still used by someone else.</param>
    public void Add(int index, Tensor gradient, bool owned = true)
    {
        if (_needs[index])
        {
            _map.Add(_inputs[index], gradient, owned);
        }
    }

    internal void DisposeOutputs()
    {
        foreach (var gradient in _outputGradients)
        {
            gradient?.Dispose();
        }
    }
}

/// <summary>Gradients on their way, by the tensor object they belong to. Sums in place where it owns one of the terms.</summary>
internal sealed class GradientMap : IDisposable
{
    private readonly Dictionary<Tensor, (Tensor Gradient, bool Owned)> _entries = new(ReferenceEqualityComparer.Instance);

    public void Add(Tensor of, Tensor gradient, bool owned)
    {
        if (!_entries.TryGetValue(of, out var existing))
        {
            _entries[of] = ((owned ? gradient : gradient.alias()).DetachFromDisposeScope(), owned);
        }
        else if (existing.Owned)
        {
            existing.Gradient.add_(gradient);
        }
        else
        {
            var sum = owned ? gradient.add_(existing.Gradient) : gradient.add(existing.Gradient);
            existing.Gradient.Dispose();
            _entries[of] = (sum.DetachFromDisposeScope(), true);
        }
    }

    public Tensor? Take(Tensor of) => TakeWithOwnership(of).Gradient;

    public (Tensor? Gradient, bool Owned) TakeWithOwnership(Tensor of) => _entries.Remove(of, out var entry) ? entry : (null, false);

    public void Dispose()
    {
        foreach (var (gradient, _) in _entries.Values)
        {
            gradient.Dispose();
        }

        _entries.Clear();
    }
}

/// <summary>Autograd over one function alone.</summary>
internal sealed class AutogradPiece : Piece
{
    private readonly Tensor[] _leaves;
    private readonly int[] _leafInputs;
    private readonly Parameter[] _trained;
    private readonly Tensor _output;

    private AutogradPiece(Tensor[] leaves, int[] leafInputs, Parameter[] trained, Tensor output)
    {
        _leaves = [.. leaves.Select(KeepOwn)];
        _leafInputs = leafInputs;
        _trained = trained;
        _output = KeepOwn(output);
    }

    public static AutogradPiece Run(Func<IReadOnlyList<Tensor>, Tensor> function, IReadOnlyList<Tensor> inputs, bool[] needs, Parameter[] trained)
    {
        using var scope = NewDisposeScope();
        using var grad = enable_grad();
        var arguments = inputs.ToArray();
        var asked = Enumerable.Range(0, inputs.Count).Where(i => needs[i]).ToArray();
        foreach (var i in asked)
        {
            arguments[i] = inputs[i].detach().requires_grad_(true);
        }

        return new AutogradPiece([.. asked.Select(i => arguments[i])], asked, trained, function(arguments));
    }

    public override bool KeepsOutputs => true;

    public Tensor DetachedOutput() => _output.detach();

    public override void Backward(PieceGradients gradients)
    {
        // An output that nothing trained reached has no gradient to give.
        if (!_output.requires_grad)
        {
            return;
        }

        foreach (var (index, gradient) in Gradients(_output, gradients.Output(), [.. _leaves, .. _trained.Select(static parameter => parameter.Data)]))
        {
            if (index < _leaves.Length)
            {
                gradients.Add(_leafInputs[index], gradient);
            }
            else
            {
                _trained[index - _leaves.Length].Gradient!.add_(gradient);
            }
        }
    }

    /// <summary>Adds the gradients of parameters that a tensor was formed of.</summary>
    /// <param name="of">The tensor; autograd knows how it was formed.</param>
    /// <param name="gradient">Its gradient.</param>
    /// <param name="trained">The parameters.</param>
    public static void Add(Tensor of, Tensor gradient, IReadOnlyList<Parameter> trained)
    {
        foreach (var (index, own) in Gradients(of, gradient, [.. trained.Select(static parameter => parameter.Data)]))
        {
            trained[index].Gradient!.add_(own);
        }
    }

    /// <summary>
    /// The gradients go into grad and are taken out again: of the two ways to ask for them this one is guarded in TorchSharp, so that a mistake or a
    /// lack of memory is an exception instead of the end of the process.
    /// </summary>
    private static IEnumerable<(int Index, Tensor Gradient)> Gradients(Tensor output, Tensor gradient, Tensor[] targets)
    {
        autograd.backward([output], [gradient], inputs: targets);
        for (var i = 0; i < targets.Length; i++)
        {
            if (targets[i].grad is { IsInvalid: false } own)
            {
                targets[i].grad = null;
                yield return (i, own);
            }
        }
    }
}

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

    public override void Backward(PieceGradients gradients)
    {
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
