using Peft.Engine;
using Peft.Engine.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>Rotary positions: pairs of a head's elements turn by an angle that grows with the position (Su et al. 2021).</summary>
public sealed class RotaryEmbedding : Module
{
    private readonly RotaryFrequencies _frequencies;
    private readonly bool _isInterleaved;

    // Cosines and sines of the positions seen so far, which do not depend on the weights.
    private RotaryTables? _cached;
    private (long Class, long Length, ScalarType Type, Device Device) _cachedFor;

    /// <summary>Makes the layer.</summary>
    /// <param name="frequencies">Radians a position.</param>
    /// <param name="className">transformers' class name, such as <c>LlamaRotaryEmbedding</c>.</param>
    /// <param name="isInterleaved">Whether neighbouring elements are a pair (GPT-J, Cohere); otherwise element i and i + half.</param>
    public RotaryEmbedding(RotaryFrequencies frequencies, string className, bool isInterleaved = false)
        : base(className)
    {
        _frequencies = frequencies;
        _isInterleaved = isInterleaved;
    }

    /// <summary>Whether keys that were turned in a row of one length are right in a longer one; transformers keeps them as they are but in Phi-3.</summary>
    public bool CanContinue(long from, long to) => _frequencies.CanContinue(from, to);

    /// <summary>Cosines and sines for the positions of a pass; they live as long as its tape, or without one in the caller's dispose scope.</summary>
    /// <param name="context">The forward pass.</param>
    /// <param name="type">Type of the hidden states.</param>
    /// <param name="device">Device of the hidden states.</param>
    public RotaryTables For(ForwardContext context, ScalarType type, Device device)
    {
        using var scope = NewDisposeScope();
        var start = context.Start;
        var length = context.Positions is null || !(_frequencies.DependOnLength || context.Positions.device_type == DeviceType.CPU)
            ? start + context.Length
            : context.Positions.max().item<long>() + 1;
        var table = Table(length, type, device);
        var found = context.Positions is { } positions ? table.Select(positions.to(device)) : table.Range(start, context.Length);
        var tables = (_frequencies.QueryGrowth is { } growth ? found with { QueryScale = Growth(context, growth, type, device) } : found).MoveToPass(context);
        context.Cache?.Steps.Give(tables);
        return tables;
    }

    // 1 + beta · ln(1 + floor(position / original length)).
    private static Tensor Growth(ForwardContext context, (double Beta, double Original) growth, ScalarType type, Device device)
    {
        var positions = context.Positions?.to(device) ?? arange(context.Start, context.Start + context.Length, ScalarType.Int64, device).unsqueeze(0);
        return positions.to(ScalarType.Float32).div(growth.Original).floor_().log1p_().mul_(growth.Beta).add_(1).to(type).unsqueeze(-1).unsqueeze(-1);
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            _cached?.Dispose();
            _cached = null;
        }

        base.Dispose(disposing);
    }

    private RotaryTables Table(long length, ScalarType type, Device device)
    {
        var wanted = (Class: _frequencies.LengthClass(length), Length: length, type, device);
        if (_cached is not null && _cachedFor.Class == wanted.Class && _cachedFor.Length >= length && _cachedFor.Type == type && _cachedFor.Device.type == device.type && _cachedFor.Device.index == device.index)
        {
            return _cached;
        }

        _cached?.Dispose();
        var rows = _frequencies.DependOnLength ? length : Math.Max(256, (long)System.Numerics.BitOperations.RoundUpToPowerOf2((ulong)length));
        using var scope = NewDisposeScope();
        var angles = outer(arange(rows, ScalarType.Float32, device), tensor(_frequencies.For(length), ScalarType.Float32, device));
        var cosine = angles.cos().mul_(_frequencies.Scale);
        var sine = angles.sin().mul_(_frequencies.Scale);
        _cached = new RotaryTables(
            Paired(cosine, cosine).to(type).unsqueeze(1).DetachFromDisposeScope(),
            Paired(sine.neg(), sine).to(type).unsqueeze(1).DetachFromDisposeScope(),
            _isInterleaved);
        _cachedFor = (wanted.Class, rows, type, device);
        return _cached;

        Tensor Paired(Tensor first, Tensor second) => _isInterleaved ? stack([first, second], -1).flatten(1, 2) : cat([first, second], 1);
    }
}

/// <summary>
/// Cosines and sines to turn heads with, an element each; the sine of the first of a pair is negated, so that what is rotated is
/// x · cos + partner(x) · sin.
/// </summary>
/// <param name="Cosine">[length, 1, size] or [rows, length, 1, size].</param>
/// <param name="Sine">Of the same shape.</param>
/// <param name="IsInterleaved">Whether neighbouring elements are a pair; otherwise element i and i + half.</param>
public sealed record RotaryTables(Tensor Cosine, Tensor Sine, bool IsInterleaved = false) : IDisposable
{
    /// <summary>Multiplies queries by a factor of their position, [rows or 1, length, 1, 1] (Ministral 3); null for none.</summary>
    public Tensor? QueryScale { get; init; }

    /// <summary>Turns heads as a step of a pass.</summary>
    /// <param name="x">[rows · length, heads · head size]; elements of a head beyond the tables' size stay.</param>
    /// <param name="headSize">Width of a head.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>Of the same shape.</returns>
    public Tensor Forward(Tensor x, long headSize, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var shape = new[] { context.Rows, context.Length, -1, headSize };
        var y = Rotate(x.view(shape)).view(x.shape);
        context.Tape?.Record(new RotaryPiece(this, shape), [x], [y], trains: false);
        return y.MoveToOuterDisposeScope();
    }

    /// <summary>Turns heads.</summary>
    /// <param name="heads">[rows, length, heads, head size]; elements beyond the tables' size stay.</param>
    /// <returns>Of the same shape, in memory of its own.</returns>
    public Tensor Rotate(Tensor heads) => LayerLaunches.Turning(heads, Cosine, Sine) is { } device
        ? LayerLaunches.Turn(device, heads, (Cosine, Sine), IsInterleaved, back: false)
        : !IsInterleaved && RotaryKernel.Serves(heads, Cosine, Sine)
        ? RotaryKernel.Rotate(heads, Cosine, Sine, back: false)
        : Apply(heads, static (x, tables) => x.mul(tables.Cosine).addcmul_(tables.Partner(x), tables.Sine, 1));

    /// <summary>Turns gradients back.</summary>
    /// <param name="gradient">[rows, length, heads, head size].</param>
    public Tensor TurnBack(Tensor gradient) => LayerLaunches.Turning(gradient, Cosine, Sine) is { } device
        ? LayerLaunches.Turn(device, gradient, (Cosine, Sine), IsInterleaved, back: true)
        : !IsInterleaved && RotaryKernel.Serves(gradient, Cosine, Sine)
        ? RotaryKernel.Rotate(gradient, Cosine, Sine, back: true)
        : Apply(gradient, static (g, tables) => g.mul(tables.Cosine).add_(tables.Partner(g.mul(tables.Sine))));

    /// <inheritdoc/>
    public void Dispose()
    {
        Cosine.Dispose();
        Sine.Dispose();
        QueryScale?.Dispose();
    }

    internal RotaryTables Range(long start, long length) => this with { Cosine = Cosine.narrow(0, start, length), Sine = Sine.narrow(0, start, length) };

    internal RotaryTables Select(Tensor positions) => this with { Cosine = Pick(Cosine, positions), Sine = Pick(Sine, positions) };

    /// <summary>Lets the tables live as long as the pass: with its tape, or in the caller's dispose scope.</summary>
    internal RotaryTables MoveToPass(ForwardContext context)
    {
        Cosine.MoveToOuterDisposeScope();
        Sine.MoveToOuterDisposeScope();
        QueryScale?.MoveToOuterDisposeScope();
        context.Tape?.Share(Cosine);
        context.Tape?.Share(Sine);
        if (QueryScale is not null)
        {
            context.Tape?.Share(QueryScale);
        }

        return this;
    }

    private static Tensor Pick(Tensor table, Tensor positions)
    {
        var shape = positions.shape;
        return table.index_select(0, positions.reshape(-1)).view(shape[0], shape[1], 1, table.size(-1));
    }

    /// <summary>Every element's partner in its place.</summary>
    private Tensor Partner(Tensor x) => IsInterleaved
        ? x.view([.. x.shape[..^1], x.size(-1) / 2, 2]).roll(1, -1).view(x.shape)
        : x.roll(x.size(-1) / 2, -1);

    private Tensor Apply(Tensor heads, Func<Tensor, RotaryTables, Tensor> turn)
    {
        var size = Cosine.size(-1);
        var width = heads.size(-1);
        return size == width
            ? turn(heads, this)
            : cat([turn(heads.narrow(-1, 0, size), this), heads.narrow(-1, size, width - size)], -1);
    }

    private sealed class RotaryPiece(RotaryTables tables, long[] shape) : Piece
    {
        public override void Backward(PieceGradients gradients)
        {
            var g = gradients.Output();
            gradients.Add(0, tables.TurnBack(g.reshape(shape)).view(g.shape));
        }
    }
}
