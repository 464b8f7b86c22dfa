using static TorchSharp.torch;

namespace Peft.Models;

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

    /// <summary>Memory that the piece keeps, the graph of autograd's pieces left out; what several keep counts for each.</summary>
    internal long KeptBytes => _kept.Sum(static tensor => tensor.numel() * tensor.ElementSize);

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
