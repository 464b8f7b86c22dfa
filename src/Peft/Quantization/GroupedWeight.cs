using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Peft.Engine;
using Peft.Models;
using Peft.Quantization.Checkpoints;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Quantization;

/// <summary>
/// A weight as GPTQ and AWQ checkpoints hold it: integers of a few bits, a scale and a zero point for each output and group of inputs, packed into words of
/// 32 bits. It keeps the file's own tensors; w[o, i] = (code − zero) · scale of i's group.
/// </summary>
public sealed unsafe class GroupedWeight : PackedWeight
{
    // Inputs that are unpacked at a time.
    private const long Slice = 256;

    private readonly GroupedTensors _parts;

    private GroupedWeight(GroupedTensors parts, ScalarType dataType, PackedPlace place)
        : base([parts.Outputs, parts.Inputs], dataType, place.Buffer)
    {
        _parts = parts with
        {
            Words = Own(parts.Words, place),
            Zeros = Own(parts.Zeros, place),
            Scales = Own(parts.Scales, place),
            Groups = parts.Groups is { } groups ? Own(groups, place) : null,
        };
        IsTransposed = place.IsTransposed;
    }

    /// <inheritdoc/>
    public override string Kind => _parts.Layout.Name;

    /// <summary>Bits of a code.</summary>
    public int Bits => _parts.Layout.Bits;

    /// <inheritdoc/>
    public override long Bytes => _parts.Named("").Sum(static part => part.Tensor.NumberOfElements * part.Tensor.ElementSize);

    /// <inheritdoc/>
    public override Device Device => _parts.Words.device;

    /// <inheritdoc/>
    public override bool IsStorable => true;

    /// <inheritdoc/>
    public override IEnumerable<(string Name, Tensor Tensor)> Stored(string name) => _parts.Named(name[..(name.LastIndexOf('.') + 1)]);

    /// <inheritdoc/>
    public override void Unpack(Tensor target)
    {
        using var scope = NewDisposeScope();
        var here = _parts.On(CPU);
        var groups = here.GroupOfInputs();
        var rows = empty([Math.Min(Slice, here.Inputs), here.Outputs], ScalarType.Float32);
        var matrix = target.view([.. Shape]);
        fixed (int* groupOf = groups)
        {
            for (long start = 0; start < here.Inputs; start += Slice)
            {
                var count = Math.Min(Slice, here.Inputs - start);
                var work = new Work(here, groupOf, (float*)TensorMemory.Pointer(rows), start);
                RowParallel.Run(count, Math.Max(1, (1 << 15) / here.Outputs), &UnpackRows, &work);
                using var part = NewDisposeScope();
                matrix.narrow(1, start, count).copy_(rows.narrow(0, 0, count).t());
            }
        }
    }

    /// <inheritdoc/>
    public override PackedWeight Repack(Tensor values)
    {
        using var scope = NewDisposeScope();
        var here = _parts.On(CPU) with { Words = zeros_like(_parts.Words, device: CPU) };
        var groups = here.GroupOfInputs();
        var given = values.to(ScalarType.Float32).cpu().t().contiguous();
        fixed (int* groupOf = groups)
        {
            var work = new Work(here, groupOf, (float*)TensorMemory.Pointer(given), 0);

            // Several inputs share a word of GPTQ's layout, so they are one thread's.
            for (long input = 0; input < here.Inputs; input++)
            {
                work.PackRow(input);
            }
        }

        return Of(here, DataType, new PackedPlace(Buffer, IsTransposed, Device));
    }

    /// <inheritdoc/>
    internal override PackedWeight Moved(Func<Tensor, Tensor> move)
    {
        var parts = _parts with { Words = move(_parts.Words), Zeros = move(_parts.Zeros), Scales = move(_parts.Scales), Groups = _parts.Groups is { } groups ? move(groups) : null };
        return Of(parts, DataType, new PackedPlace(Buffer, IsTransposed, parts.Words.device));
    }

    /// <summary>Takes what a file holds.</summary>
    internal static GroupedWeight Of(GroupedTensors parts, ScalarType dataType, PackedPlace place) => new(parts, dataType, place);

    /// <inheritdoc/>
    protected override void Free()
    {
        foreach (var (_, tensor) in _parts.Named(""))
        {
            tensor.Dispose();
        }
    }

    private static Tensor Own(Tensor tensor, PackedPlace place) => tensor.to(place.Device).DetachFromDisposeScope();

    private static void UnpackRows(void* state, long from, long to)
    {
        var work = (Work*)state;
        var outputs = work->Outputs;
        var scales = (float*)NativeMemory.Alloc((nuint)(2 * outputs), sizeof(float));
        var zeros = scales + outputs;
        var group = -1;
        for (var row = from; row < to; row++)
        {
            var input = work->First + row;
            if (group != work->GroupOf[input])
            {
                group = work->GroupOf[input];
                for (var output = 0; output < outputs; output++)
                {
                    scales[output] = work->Scale(group, output);
                    zeros[output] = work->Zero(group, output);
                }
            }

            work->UnpackRow(input, scales, zeros, work->Values + (row * outputs));
        }

        NativeMemory.Free(scales);
    }

    private struct Work(GroupedTensors parts, int* groupOf, float* values, long first)
    {
        public readonly long Outputs = parts.Outputs;
        public readonly long First = first;
        public readonly float* Values = values;
        public readonly int* GroupOf = groupOf;
        private readonly uint* _words = (uint*)TensorMemory.Pointer(parts.Words);
        private readonly uint* _zeros = (uint*)TensorMemory.Pointer(parts.Zeros);
        private readonly Half* _scales = (Half*)TensorMemory.Pointer(parts.Scales);
        private readonly int _bits = parts.Layout.Bits;
        private readonly int _perWord = 32 / parts.Layout.Bits;
        private readonly uint _mask = (uint)((1L << parts.Layout.Bits) - 1);
        private readonly uint _zeroOffset = parts.Layout.ZeroOffset;
        private readonly bool _packsOutputs = parts.Layout.PacksOutputs;

        public readonly float Scale(long group, long output) => (float)_scales[(group * Outputs) + output];

        public readonly float Zero(long group, long output)
        {
            var word = _zeros[(group * (Outputs / _perWord)) + (output / _perWord)];

            // A zero point of 0 is stored as the largest code, which becomes 0 again.
            return ((word >> (_bits * Place(output % _perWord))) + _zeroOffset) & _mask;
        }

        public readonly void UnpackRow(long input, float* scales, float* zeros, float* to)
        {
            long output = 0;
            if (!_packsOutputs)
            {
                var words = _words + (input / _perWord * Outputs);
                var shift = _bits * (int)(input % _perWord);
                for (; Vector256.IsHardwareAccelerated && output <= Outputs - 8; output += 8)
                {
                    var codes = Vector256.ShiftRightLogical(Vector256.Load(words + output), shift) & Vector256.Create(_mask);
                    ((Vector256.ConvertToSingle(codes.AsInt32()) - Vector256.Load(zeros + output)) * Vector256.Load(scales + output)).Store(to + output);
                }
            }

            for (; output < Outputs; output++)
            {
                var (word, shift) = Find(input, output);
                to[output] = (((_words[word] >> shift) & _mask) - zeros[output]) * scales[output];
            }
        }

        public readonly void PackRow(long input)
        {
            var group = GroupOf[input];
            for (long output = 0; output < Outputs; output++)
            {
                var code = MathF.Round((Values[(input * Outputs) + output] / Scale(group, output)) + Zero(group, output));
                var (word, shift) = Find(input, output);
                _words[word] |= (float.IsFinite(code) ? (uint)Math.Clamp(code, 0, _mask) : 0) << shift;
            }
        }

        private readonly (long Word, int Shift) Find(long input, long output) => _packsOutputs
            ? ((input * (Outputs / _perWord)) + (output / _perWord), _bits * Place(output % _perWord))
            : ((input / _perWord * Outputs) + output, _bits * (int)(input % _perWord));

        /// <summary>AWQ puts even outputs of a word into its lower half and odd ones into its upper half.</summary>
        private readonly int Place(long output) => (int)(_packsOutputs ? (output / 2) + (output % 2 * (_perWord / 2)) : output);
    }
}
