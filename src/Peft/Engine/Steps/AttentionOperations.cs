using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine.Steps;

/// <summary>What turns a token's heads: its rows of the tables of cosines and sines.</summary>
/// <param name="Cosine">[size].</param>
/// <param name="Sine">[size]; that of the first of a pair is negated.</param>
/// <param name="Size">How many of a head's elements are turned.</param>
/// <param name="IsInterleaved">Whether neighbouring elements are a pair; otherwise element i and i + half.</param>
internal readonly record struct StepRotation(CpuRows Cosine, CpuRows Sine, int Size, bool IsInterleaved);

/// <summary>What an attention over a cache reads of the pass it is a part of.</summary>
internal interface IStepAttention
{
    /// <summary>What turns queries and keys; null for nothing.</summary>
    StepRotation? Rotation { get; }

    /// <summary>The same as tensors, a row of each table.</summary>
    (Tensor Cosine, Tensor Sine, bool IsInterleaved)? Tables { get; }

    /// <summary>What the cache holds, the pass's own position with it: [1, kv heads, capacity, size] each.</summary>
    (Tensor Keys, Tensor Values) Stored { get; }

    /// <summary>Where the token's own key and value stand.</summary>
    long Position { get; }

    /// <summary>The keys that the token sees, and what hides some of the last of them.</summary>
    (long First, long Count, Tensor? Mask) Seen { get; }

    /// <summary>What is added to scores, [1, heads, 1, keys], counted from the first that is stored; null for nothing.</summary>
    Tensor? Bias { get; }

    /// <summary>One more score a head, [heads], that gives no value; null for none.</summary>
    Tensor? Sinks { get; }
}

/// <summary>The sizes of a token's attention.</summary>
/// <param name="Heads">Query heads.</param>
/// <param name="KeyValueHeads">Key and value heads.</param>
/// <param name="KeySize">Width of queries and keys.</param>
/// <param name="ValueSize">Width of values.</param>
/// <param name="Scale">Multiplies queries.</param>
internal readonly record struct StepHeads(int Heads, int KeyValueHeads, int KeySize, int ValueSize, float Scale);

/// <summary>Turns a token's queries and keys, scales queries, and puts keys and values into the cache.</summary>
internal sealed unsafe class RotateOperation : StepOperation
{
    private readonly IStepAttention _pass;
    private readonly StepHeads _sizes;
    private readonly CpuRows _queries;
    private readonly CpuRows _keys;
    private readonly CpuRows _values;
    private readonly bool _stores;
    private readonly byte* _turned;
    private StepRotation? _rotation;
    private CpuRows _storedKeys;
    private CpuRows _storedValues;
    private Tensor? _stored;
    private long _capacity;
    private long _position;

    /// <param name="pass">What differs from token to token.</param>
    /// <param name="sizes">The sizes.</param>
    /// <param name="queries">[1, heads · key size].</param>
    /// <param name="stored">What is put into the cache, [1, kv heads · key size] and [1, kv heads · value size]; null where keys and values are there already.</param>
    public RotateOperation(IStepAttention pass, StepHeads sizes, Tensor queries, (Tensor Keys, Tensor Values)? stored)
    {
        (_pass, _sizes, _queries, _stores) = (pass, sizes, CpuRows.Of(queries, sizes.KeySize), stored is not null);
        if (stored is var (keys, values))
        {
            (_keys, _values) = (CpuRows.Of(keys, sizes.KeySize), CpuRows.Of(values, sizes.ValueSize));
        }

        _turned = (byte*)NativeMemory.AlignedAlloc((nuint)(sizes.Heads * sizes.KeySize) * sizeof(float), 64);
    }

    /// <summary>The queries, turned and scaled.</summary>
    public CpuRows Turned => CpuRows.At(_turned, _sizes.KeySize, _queries.IsBFloat16);

    public override long Parts => _sizes.Heads + (_stores ? _sizes.KeyValueHeads : 0);

    public override long Grain => 4;

    public override int ScratchFloats => 6 * Math.Max(_sizes.KeySize, _sizes.ValueSize);

    public override void Prepare()
    {
        _rotation = _pass.Rotation;
        if (_stores)
        {
            var (keys, values) = _pass.Stored;
            _position = _pass.Position;
            if (!ReferenceEquals(keys, _stored))
            {
                (_stored, _capacity) = (keys, keys.size(2));
                (_storedKeys, _storedValues) = (CpuRows.Of(keys, _sizes.KeySize), CpuRows.Of(values, _sizes.ValueSize));
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override void Run(long from, long to, float* scratch)
    {
        for (var part = from; part < to; part++)
        {
            if (part < _sizes.Heads)
            {
                var query = Turned.Target(part, _sizes.KeySize, scratch);
                Turn(_queries.Read(part, _sizes.KeySize, scratch + _sizes.KeySize), query, scratch + (2 * _sizes.KeySize));
                TensorPrimitives.Multiply(query, _sizes.Scale, query);
                Turned.Write(part, query);
                continue;
            }

            var head = part - _sizes.Heads;
            var stored = (head * _capacity) + _position;
            var key = _storedKeys.Target(stored, _sizes.KeySize, scratch);
            Turn(_keys.Read(head, _sizes.KeySize, scratch + _sizes.KeySize), key, scratch + (2 * _sizes.KeySize));
            _storedKeys.Write(stored, key);
            var bytes = _sizes.ValueSize * (_values.IsBFloat16 ? sizeof(ushort) : sizeof(float));
            Buffer.MemoryCopy(_values.Row(head), _storedValues.Row(stored), bytes, bytes);
        }
    }

    protected override void Free() => NativeMemory.AlignedFree(_turned);

    private void Turn(ReadOnlySpan<float> x, Span<float> y, float* scratch)
    {
        if (_rotation is not { } rotation)
        {
            x.CopyTo(y);
            return;
        }

        var size = rotation.Size;
        ReadOnlySpan<float> cosine = rotation.Cosine.Read(0, size, scratch), sine = rotation.Sine.Read(0, size, scratch + size);
        var partner = new Span<float>(scratch + (2 * size), size);
        if (rotation.IsInterleaved)
        {
            for (var i = 0; i < size; i += 2)
            {
                (partner[i], partner[i + 1]) = (x[i + 1], x[i]);
            }

            TensorPrimitives.Multiply(partner, sine, partner);
            TensorPrimitives.MultiplyAdd(x[..size], cosine, partner, y[..size]);
        }
        else
        {
            RotaryKernel.Turn(x[..size], cosine[..(size / 2)], sine[(size / 2)..], y[..size], partner[..(size / 2)]);
        }

        x[size..].CopyTo(y[size..]);
        if (_queries.IsBFloat16)
        {
            // As the engine stores them before they are scaled.
            CpuRows.Round(y);
        }
    }
}

/// <summary>A token's attention over the cache.</summary>
internal sealed unsafe class AttendOperation : StepOperation
{
    private readonly IStepAttention _pass;
    private readonly StepHeads _sizes;
    private readonly SingleQueryKernel.Work* _work;
    private Tensor? _stored;

    // Only held: their memory is read until the next token.
    private Tensor? _mask;
    private Tensor? _bias;

    /// <param name="pass">What differs from token to token.</param>
    /// <param name="sizes">The sizes.</param>
    /// <param name="queries">Turned and scaled.</param>
    /// <param name="output">[1, heads · value size].</param>
    public AttendOperation(IStepAttention pass, StepHeads sizes, CpuRows queries, Tensor output)
    {
        (_pass, _sizes) = (pass, sizes);
        _work = (SingleQueryKernel.Work*)NativeMemory.AllocZeroed((nuint)sizeof(SingleQueryKernel.Work));
        *_work = new SingleQueryKernel.Work
        {
            Queries = queries, Output = CpuRows.Of(output, sizes.ValueSize), Group = sizes.Heads / sizes.KeyValueHeads, Heads = sizes.Heads, KeySize = sizes.KeySize, ValueSize = sizes.ValueSize,
        };
        _work->AddSinks(pass.Sinks);
    }

    public override long Parts => _sizes.Heads;

    public override int ScratchFloats => _work->ScratchFloats;

    public override void Prepare()
    {
        var (keys, values) = _pass.Stored;
        var (first, count, mask) = _pass.Seen;
        if (!ReferenceEquals(keys, _stored))
        {
            _stored = keys;
            (_work->Keys, _work->Values) = (CpuRows.Of(keys, _sizes.KeySize), CpuRows.Of(values, _sizes.ValueSize));
            _work->KeyStride = _work->ValueStride = keys.size(2);
        }

        (_work->First, _work->Count) = (first, (int)count);
        (_mask, _bias) = (mask, _pass.Bias);
        _work->Add(_bias);
        _work->Mask = mask is null ? null : (bool*)Tensors.TensorMemory.Pointer(mask);
        _work->Masked = (int)(mask?.size(-1) ?? 0);
    }

    public override void Run(long from, long to, float* scratch) => SingleQueryKernel.Attend(_work, from, to, scratch);

    protected override void Free() => NativeMemory.Free(_work);
}
