using Peft.Engine.Cuda;
using Peft.Engine.Steps;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>
/// A weight in a form that takes less memory (four-bit blocks, eight-bit rows, a file's own blocks). It is computed with by unpacking it
/// into memory that all such weights of a model share, in the forward pass and once more in the backward pass; a dense copy is never kept.
/// </summary>
/// <param name="shape">The weight as a matrix [outputs, inputs]; of several of them, [experts, outputs, inputs].</param>
/// <param name="dataType">Type the weight had before it was packed.</param>
/// <param name="buffer">Where the model's packed weights are unpacked to.</param>
public abstract class PackedWeight(IReadOnlyList<long> shape, ScalarType dataType, UnpackBuffer buffer) : IDisposable
{
    private readonly UnpackBuffer _buffer = buffer.AddUser();
    private bool _isDisposed;

    /// <summary>The weight as a matrix [outputs, inputs], or as several [experts, outputs, inputs], whatever the layout of the parameter that holds it.</summary>
    public IReadOnlyList<long> Shape { get; } = shape;

    /// <summary>Type the weight had before it was packed.</summary>
    public ScalarType DataType { get; } = dataType;

    /// <summary>Whether the parameter's layout is [inputs, outputs], as GPT-2's.</summary>
    public bool IsTransposed { get; init; }

    /// <summary>The type products are formed in, whatever that of the input; null for the input's.</summary>
    public ScalarType? ComputeType { get; init; }

    /// <summary>Memory the packed form takes.</summary>
    public abstract long Bytes { get; }

    /// <summary>Where it is.</summary>
    public abstract Device Device { get; }

    /// <summary>Name of the form, for messages and counts, such as <c>nf4</c>.</summary>
    public abstract string Kind { get; }

    /// <summary>Whether the form has a product of its own, which unpacking can't equal (LLM.int8 quantises the input too); see <see cref="Product"/>.</summary>
    public virtual bool HasProduct => false;

    /// <summary>Elements of the weight.</summary>
    public long Count => Tensors.TensorEntry.Product(Shape);

    /// <summary>Writes the weight's values.</summary>
    /// <param name="target">Of the weight's shape or flat, contiguous, on the same device; float32, bfloat16 or float16.</param>
    public abstract void Unpack(Tensor target);

    /// <summary>y = x Wᵀ + b by the form's own arithmetic. Its gradient is that of the unpacked weight.</summary>
    /// <param name="x">[rows, inputs].</param>
    /// <param name="bias">[outputs], or null.</param>
    /// <returns>[rows, outputs], of the input's type.</returns>
    public virtual Tensor Product(Tensor x, Tensor? bias) => throw new InvalidOperationException($"{Kind} has no product of its own.");

    /// <summary>Forms y = x Wᵀ of one row straight from the packed form, where there is a kernel for that.</summary>
    /// <param name="x">[1, inputs], on the same device.</param>
    /// <param name="y">[1, outputs], the same type; written over. Its elements lie side by side.</param>
    /// <returns>Whether it was formed; otherwise nothing was written.</returns>
    internal virtual bool RowProduct(Tensor x, Tensor y) => false;

    /// <summary>The weights as products of a recorded step read them, on the processor, those of several experts one below the other; null where a form, a type or a size has no kernel for it.</summary>
    /// <param name="type">The input's type, float32 or bfloat16.</param>
    internal virtual StepRows? Rows(ScalarType type) => null;

    /// <summary>y = x Wᵀ + b + residual of one row as the start of a GPU's kernel; null where a form, a type or a size has none.</summary>
    /// <param name="device">Runs it.</param>
    /// <param name="x">[1, in].</param>
    /// <param name="target">Takes the product.</param>
    internal virtual StepOperation? Launch(KernelDevice device, Tensor x, KernelArguments.ProductTarget target) => null;

    /// <summary>Whether <see cref="Stored"/> gives tensors.</summary>
    public virtual bool IsStorable => false;

    /// <summary>Whether every value is a number; told from the scales.</summary>
    public virtual bool IsFinite => true;

    /// <summary>The tensors that a file holds the weight as; null where there is no such file. They are this weight's own or of the caller's dispose scope.</summary>
    /// <param name="name">The weight's name in the file, such as <c>…q_proj.weight</c>.</param>
    public virtual IEnumerable<(string Name, Tensor Tensor)>? Stored(string name) => null;

    /// <summary>Packs other values the same way.</summary>
    /// <param name="values">[outputs, inputs].</param>
    public abstract PackedWeight Repack(Tensor values);

    /// <summary>One expert's weight [outputs, inputs], a part of this one; null where this isn't one for each expert.</summary>
    /// <param name="index">Which expert.</param>
    internal virtual PackedWeight? Expert(int index) => null;

    /// <summary>The weight as a GGUF file's blocks, uint8 [outputs, bytes of a row] or [experts, outputs, bytes of a row], of the caller's dispose scope; null where it isn't held so.</summary>
    /// <param name="type">The type of the blocks that are asked for.</param>
    internal virtual Tensor? Blocks(string type) => null;

    /// <summary>The same weight with its tensors elsewhere: on another device, or mapped from a file.</summary>
    /// <param name="move">Gives for each tensor the one in its place, of the caller's dispose scope.</param>
    internal abstract PackedWeight Moved(Func<Tensor, Tensor> move);

    /// <summary>Memory that takes a number of weights one below the other.</summary>
    /// <param name="weights">Packed weights of one width, on one device and of one model.</param>
    /// <param name="type">The type to unpack to.</param>
    internal static DenseWeight Lease(IReadOnlyList<PackedWeight> weights, ScalarType type)
    {
        var first = weights[0];
        var lease = first._buffer.Rent([weights.Sum(static weight => weight.Shape[0]), .. first.Shape.Skip(1)], type, first.Device);
        long row = 0;
        foreach (var weight in weights)
        {
            using var part = lease.Tensor.narrow(0, row, weight.Shape[0]);
            weight.Unpack(part);
            row += weight.Shape[0];
        }

        return lease;
    }

    /// <summary>The same form over other memory keeps its settings.</summary>
    protected UnpackBuffer Buffer => _buffer;

    /// <inheritdoc/>
    public void Dispose()
    {
        if (!_isDisposed)
        {
            _isDisposed = true;
            _buffer.RemoveUser();
            Free();
        }

        GC.SuppressFinalize(this);
    }

    /// <summary>Frees the packed memory.</summary>
    protected abstract void Free();
}

/// <summary>A weight's values for a short time: the parameter's own tensor, or memory that is used again once this is disposed. Nothing may keep the tensor.</summary>
public readonly struct DenseWeight : IDisposable
{
    private readonly UnpackBuffer? _buffer;
    private readonly Tensor? _memory;
    private readonly Tensor? _view;

    internal DenseWeight(Tensor tensor) => Tensor = tensor;

    internal DenseWeight(UnpackBuffer buffer, Tensor memory, Tensor view)
    {
        _buffer = buffer;
        _memory = memory;
        _view = view;
        Tensor = view;
    }

    /// <summary>The values.</summary>
    public Tensor Tensor { get; private init; }

    /// <summary>Gives the memory back.</summary>
    public void Dispose()
    {
        if (_buffer is not null)
        {
            if (!ReferenceEquals(Tensor, _view))
            {
                Tensor.Dispose();
            }

            _view!.Dispose();
            _buffer.Return(_memory!);
        }
    }

    internal DenseWeight Transposed() => this with { Tensor = Tensor.transpose(-2, -1) };
}

/// <summary>
/// The memory that the packed weights of one model are unpacked to, one after the other: as large as the largest of them. It is freed with the last of them.
/// Used by one thread at a time, as the model is.
/// </summary>
public sealed class UnpackBuffer
{
    private readonly List<Tensor> _free = [];
    private int _users;

    /// <summary>Memory that waits for its next use.</summary>
    public long Bytes => _free.Sum(static memory => memory.NumberOfElements * memory.ElementSize);

    internal UnpackBuffer AddUser()
    {
        Interlocked.Increment(ref _users);
        return this;
    }

    internal void RemoveUser()
    {
        if (Interlocked.Decrement(ref _users) == 0)
        {
            _free.ForEach(static memory => memory.Dispose());
            _free.Clear();
        }
    }

    internal DenseWeight Rent(long[] shape, ScalarType type, Device device)
    {
        var count = shape.Aggregate(1L, static (product, size) => product * size);
        var index = _free.FindIndex(memory => memory.dtype == type && memory.device_type == device.type && memory.device_index == device.index);
        Tensor? memory = null;
        if (index >= 0)
        {
            memory = _free[index];
            _free.RemoveAt(index);
            if (memory.NumberOfElements < count)
            {
                memory.Dispose();
                memory = null;
            }
        }

        memory ??= empty([count], type, device).DetachFromDisposeScope();
        using var part = memory.narrow(0, 0, count);
        return new DenseWeight(this, memory, part.view(shape));
    }

    internal void Return(Tensor memory)
    {
        if (_users > 0)
        {
            _free.Add(memory);
        }
        else
        {
            memory.Dispose();
        }
    }
}
