using Peft.Engine;
using Peft.Engine.Steps;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>Gate and up of a layer, or of each of its experts, as one weight of which each keeps a form of its own, such as the blocks of two types in a GGUF file.</summary>
public sealed class PairedWeight : PackedWeight
{
    private readonly PackedWeight _gate;
    private readonly PackedWeight _up;
    private readonly bool _isInterleaved;
    private readonly bool _ownsHalves;
    private readonly PairedWeight[] _experts = [];

    private PairedWeight(PackedWeight gate, PackedWeight up, bool isInterleaved, bool ownsHalves, UnpackBuffer buffer)
        : base([.. gate.Shape.SkipLast(2), 2 * gate.Shape[^2], gate.Shape[^1]], gate.DataType, buffer)
    {
        (_gate, _up, _isInterleaved, _ownsHalves, IsTransposed) = (gate, up, isInterleaved, ownsHalves, gate.IsTransposed);
        if (gate.Shape.Count == 3)
        {
            _experts = [.. Enumerable.Range(0, (int)gate.Shape[0]).Select(expert => new PairedWeight(gate.Expert(expert)!, up.Expert(expert)!, isInterleaved, ownsHalves: false, buffer))];
        }
    }

    /// <inheritdoc/>
    public override string Kind => _gate.Kind == _up.Kind ? _gate.Kind : $"{_gate.Kind} and {_up.Kind}";

    /// <inheritdoc/>
    public override long Bytes => _gate.Bytes + _up.Bytes;

    /// <inheritdoc/>
    public override Device Device => _gate.Device;

    /// <inheritdoc/>
    public override bool IsFinite => _gate.IsFinite && _up.IsFinite;

    /// <summary>Joins two weights, which it takes over.</summary>
    /// <param name="gate">[outputs, inputs] or [experts, outputs, inputs].</param>
    /// <param name="up">Of the same shape, whatever its form.</param>
    /// <param name="isInterleaved">Whether rows of gate and up stand in turn; otherwise all of the gate's stand first.</param>
    /// <param name="buffer">Where the model's packed weights are unpacked to.</param>
    public static PairedWeight Of(PackedWeight gate, PackedWeight up, bool isInterleaved, UnpackBuffer buffer)
    {
        ArgumentNullException.ThrowIfNull(gate);
        ArgumentNullException.ThrowIfNull(up);
        return new PairedWeight(gate, up, isInterleaved, ownsHalves: true, buffer);
    }

    /// <inheritdoc/>
    public override void Unpack(Tensor target)
    {
        ArgumentNullException.ThrowIfNull(target);
        using var scope = NewDisposeScope();
        var all = target.view([.. Shape]);
        for (var expert = 0; expert < _experts.Length; expert++)
        {
            _experts[expert].Unpack(all.select(0, expert));
        }

        if (_experts.Length > 0)
        {
            return;
        }

        foreach (var (half, place) in Halves(all, 0))
        {
            // Rows that stand in turn have gaps between them.
            var values = _isInterleaved ? empty(place.shape, place.dtype, place.device) : place;
            half.Unpack(values);
            if (_isInterleaved)
            {
                place.copy_(values);
            }
        }
    }

    /// <inheritdoc/>
    public override PackedWeight Repack(Tensor values)
    {
        ArgumentNullException.ThrowIfNull(values);
        using var scope = NewDisposeScope();
        var halves = Halves(values, (int)values.dim() - 2).Select(static pair => pair.Half.Repack(pair.Place.contiguous())).ToArray();
        return Of(halves[0], halves[1], _isInterleaved, Buffer);
    }

    /// <inheritdoc/>
    internal override PackedWeight? Expert(int index) => _experts.Length > 0 ? _experts[index] : null;

    /// <inheritdoc/>
    internal override bool RowProduct(Tensor x, Tensor y)
    {
        using var scope = NewDisposeScope();
        foreach (var (half, place) in Halves(y, 1))
        {
            var sums = _isInterleaved ? empty(place.shape, place.dtype, place.device) : place;
            if (!half.RowProduct(x, sums))
            {
                return false;
            }

            if (_isInterleaved)
            {
                place.copy_(sums);
            }
        }

        return true;
    }

    /// <inheritdoc/>
    internal override StepRows? Rows(ScalarType type) =>
        _gate.Rows(type) is { } gate && _up.Rows(type) is { } up ? new PairedRows(gate, up, _gate.Shape[^2], _isInterleaved) : null;

    /// <inheritdoc/>
    internal override PackedWeight Moved(Func<Tensor, Tensor> move) => Of(_gate.Moved(move), _up.Moved(move), _isInterleaved, Buffer);

    /// <inheritdoc/>
    protected override void Free()
    {
        Array.ForEach(_experts, static expert => expert.Dispose());
        if (_ownsHalves)
        {
            _gate.Dispose();
            _up.Dispose();
        }
    }

    /// <summary>Where the rows of each stand along a dimension.</summary>
    private (PackedWeight Half, Tensor Place)[] Halves(Tensor all, int dimension)
    {
        var size = all.size(dimension) / 2;
        if (!_isInterleaved)
        {
            return [(_gate, all.narrow(dimension, 0, size)), (_up, all.narrow(dimension, size, size))];
        }

        var shape = all.shape;
        var pairs = all.reshape([.. shape[..dimension], size, 2, .. shape[(dimension + 1)..]]);
        return [(_gate, pairs.select(dimension + 1, 0)), (_up, pairs.select(dimension + 1, 1))];
    }

    /// <summary>The rows of both, of one expert after another.</summary>
    private sealed unsafe class PairedRows(StepRows gate, StepRows up, long size, bool isInterleaved) : StepRows
    {
        // The inputs in the order of each, and sums before they are put in turn.
        private readonly int _room = (Math.Max(gate.ScratchFloats, up.ScratchFloats) + 15) / 16 * 16;

        public override long Count => gate.Count + up.Count;

        public override long Grain => Math.Max(gate.Grain, up.Grain);

        public override int Most => Math.Min(gate.Most, up.Most);

        public override int ScratchFloats => (2 * _room) + Most + (2 * sizeof(nint) / sizeof(float));

        public override (nint Start, long Bytes) Memory(long from, long to)
        {
            var (first, start) = (from / (2 * size) * size, from % (2 * size));
            var end = start + to - from;
            return isInterleaved ? default
                : start < size ? gate.Memory(first + start, first + Math.Min(size, end))
                : up.Memory(first + start - size, first + Math.Min(size, end - size));
        }

        public override float* Arrange(CpuRows x, long row, float* scratch)
        {
            // An input may lie where it came from.
            var inputs = Inputs(scratch);
            inputs[0] = (nint)gate.Arrange(x, row, scratch);
            inputs[1] = (nint)up.Arrange(x, row, scratch + _room);
            return scratch;
        }

        public override void Sum(long from, int count, float* input, float* sums)
        {
            var inputs = Inputs(input);
            for (var end = from + count; from < end;)
            {
                var (first, start) = (from / (2 * size) * size, from % (2 * size));
                if (isInterleaved)
                {
                    count = (int)Math.Min(end - from, (2 * size) - start);
                    Every(gate, first + ((start + 1) / 2), (int)(start % 2), count, (float*)inputs[0], input + (2 * _room), sums);
                    Every(up, first + (start / 2), (int)(1 - (start % 2)), count, (float*)inputs[1], input + (2 * _room), sums);
                }
                else if (start < size)
                {
                    count = (int)Math.Min(end - from, size - start);
                    gate.Sum(first + start, count, (float*)inputs[0], sums);
                }
                else
                {
                    count = (int)Math.Min(end - from, (2 * size) - start);
                    up.Sum(first + start - size, count, (float*)inputs[1], sums);
                }

                from += count;
                sums += count;
            }
        }

        private nint* Inputs(float* scratch) => (nint*)(scratch + (2 * _room) + Most);

        /// <summary>Every other sum from one on.</summary>
        private static void Every(StepRows rows, long first, int offset, int count, float* input, float* room, float* sums)
        {
            var own = (count - offset + 1) / 2;
            if (own <= 0)
            {
                return;
            }

            rows.Sum(first, own, input, room);
            for (var i = 0; i < own; i++)
            {
                sums[offset + (2 * i)] = room[i];
            }
        }
    }
}
