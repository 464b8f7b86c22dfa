using System.Runtime.CompilerServices;

using TorchSharp.Utils;

namespace TorchSharp;

public static partial class torch
{
    /// <summary>A tensor of libtorch's. It belongs to the dispose scope in which it was made, or to whoever disposes it.</summary>
    public partial class Tensor : IDisposable
    {
        private static long s_totalCount;
        private static long s_peakCount;

        private nint _handle;

        /// <summary>Takes over the one reference that <paramref name="handle"/> stands for; zero is libtorch's undefined tensor.</summary>
        internal Tensor(nint handle)
        {
            _handle = handle;
            var live = Interlocked.Increment(ref s_totalCount);
            if (live > s_peakCount)
            {
                s_peakCount = live;
            }

            OwningDisposeScope = DisposeScopeManager.Current.Register(this);
        }

        ~Tensor() => Dispose(false);

        /// <summary>How many tensors live in this process.</summary>
        public static long TotalCount => s_totalCount;

        /// <summary>The most tensors that ever lived at once.</summary>
        public static long PeakCount => s_peakCount;

        public nint Handle => _handle != 0 ? _handle : throw new InvalidOperationException("Tensor invalid -- empty handle.");

        public bool IsInvalid => _handle == 0;

        public string? name { get; set; }

        public long Dimensions => Native.peft_dim(Handle);

        public long ndim => Dimensions;

        public long NumberOfElements => Native.peft_numel(Handle);

        public long ElementSize => dtype.ElementSize();

        public ScalarType dtype => (ScalarType)Native.Check(Native.peft_dtype(Handle));

        public DeviceType device_type => (DeviceType)Native.peft_device_type(Handle);

        public int device_index => Native.peft_device_index(Handle);

        public Device device => device_type == DeviceType.CPU ? CPU : new Device(device_type, device_index);

        public bool is_cuda => device_type == DeviceType.CUDA;

        public bool is_meta => device_type == DeviceType.META;

        public bool is_leaf => Native.Check(Native.peft_is_leaf(Handle)) != 0;

        public unsafe long[] shape
        {
            get
            {
                var sizes = new long[Dimensions];
                fixed (long* start = sizes)
                {
                    Native.Check(Native.peft_sizes(Handle, start));
                }

                return sizes;
            }
        }

        public bool requires_grad
        {
            get => Native.Check(Native.peft_requires_grad(Handle)) != 0;
            set => Native.Check(Native.peft_set_requires_grad(Handle, value ? 1 : 0));
        }

        public Tensor? grad
        {
            get => Native.peft_grad(Handle) is not 0 and var gradient ? new Tensor(gradient) : null;
            set => Native.Check(Native.peft_set_grad(Handle, value?.Handle ?? 0));
        }

        /// <summary>The elements in place: valid as long as the tensor lives.</summary>
        public unsafe Span<byte> bytes
        {
            get
            {
                var total = NumberOfElements * ElementSize;
                if (!is_contiguous())
                {
                    throw new InvalidOperationException("Bytes() called on non-contiguous tensor.");
                }

                if (total > int.MaxValue)
                {
                    throw new ArgumentException("Span only supports up to int.MaxValue elements.");
                }

                if (device_type != DeviceType.CPU)
                {
                    throw new InvalidOperationException("Reading data from non-CPU memory is not supported. Move or copy the tensor to the cpu before reading.");
                }

                return total == 0 ? [] : new Span<byte>((void*)Native.Check(Native.peft_data(Handle)), (int)total);
            }

            set
            {
                var target = bytes;
                if (target.Length != value.Length)
                {
                    throw new ArgumentException("Mismatched data sizes in SetBytes().");
                }

                value.CopyTo(target);
            }
        }

        internal DisposeScope? OwningDisposeScope { get; set; }

        /// <summary>Takes the reference out of this object, which is as good as disposed then.</summary>
        internal nint Release()
        {
            var released = Handle;
            CountDisposed();
            _handle = 0;
            return released;
        }

        public void Dispose()
        {
            Dispose(true);
            GC.SuppressFinalize(this);
        }

        public Tensor MoveToOuterDisposeScope()
        {
            OwningDisposeScope?.MoveToOuter(this);
            return this;
        }

        public Tensor DetachFromDisposeScope()
        {
            OwningDisposeScope?.Detach(this);
            return this;
        }

        public Tensor MoveToOtherDisposeScope(Tensor other) => MoveToOtherDisposeScope(other.OwningDisposeScope);

        public Tensor MoveToOtherDisposeScope(DisposeScope? other)
        {
            if (OwningDisposeScope is null)
            {
                other?.Attach(this);
            }
            else
            {
                OwningDisposeScope.MoveToOther(other, this);
            }

            return this;
        }

        public long dim() => Dimensions;

        public long numel() => NumberOfElements;

        public long element_size() => ElementSize;

        public long[] size() => shape;

        public long size(int dim) => shape[Wrap(dim)];

        public unsafe long[] stride()
        {
            var strides = new long[Dimensions];
            fixed (long* start = strides)
            {
                Native.Check(Native.peft_strides(Handle, start));
            }

            return strides;
        }

        public long stride(int dim) => stride()[Wrap(dim)];

        public long storage_offset() => Native.Check(Native.peft_storage_offset(Handle));

        public bool is_contiguous() => Native.Check(Native.peft_is_contiguous(Handle)) != 0;

        public bool is_cpu() => device_type == DeviceType.CPU;

        public bool is_floating_point() => torch.is_floating_point(dtype);

        public bool is_integral() => torch.is_integral(dtype);

        public bool is_complex() => torch.is_complex(dtype);

        public bool is_nonzero() => numel() == 1
            ? ToScalar().Real != 0
            : throw new InvalidOperationException("is_nonzero() called on non-singleton tensor");

        public Tensor requires_grad_(bool requires_grad = true)
        {
            this.requires_grad = requires_grad;
            return this;
        }

        public Tensor with_requires_grad(bool requires_grad = true) => requires_grad_(requires_grad);

        public void retain_grad() => Native.Check(Native.peft_retain_grad(Handle));

        public void backward() => autograd.backward(this);

        public void backward(IList<Tensor>? grad_tensors = null, bool retain_graph = false, bool create_graph = false, IList<Tensor>? inputs = null) =>
            autograd.backward([this], grad_tensors!, retain_graph, create_graph, inputs!);

        /// <summary>The elements, to be read and written one by one or as an array.</summary>
        public TensorAccessor<T> data<T>()
            where T : unmanaged
        {
            if (typeof(T) != ClrType(dtype))
            {
                throw new ArgumentException($"{typeof(T).Name} is not compatible with {dtype}");
            }

            return new TensorAccessor<T>(device_type == DeviceType.CPU ? this : cpu());
        }

        public T item<T>()
            where T : unmanaged =>
            NumberOfElements == 1 ? data<T>()[0] : throw new ArgumentException("Number of elements in the tensor must be 1");

        public Scalar ToScalar() => Scalar.Of(Aten._local_scalar_dense.Value(NumberOfElements == 1
            ? this
            : throw new InvalidOperationException($"A tensor of {NumberOfElements} elements has no single value.")));

        public Tensor cpu() => to(CPU);

        public Tensor to(ScalarType type, bool copy = false, bool disposeAfter = false, bool non_blocking = false) =>
            to_type(type, copy, disposeAfter, non_blocking);

        public Tensor to_type(ScalarType type, bool copy = false, bool disposeAfter = false, bool non_blocking = false) =>
            DisposeAfter(Aten.to_dtype.Tensor(this, type, non_blocking, copy), disposeAfter);

        public Tensor to(Device device, bool copy = false, bool disposeAfter = false, bool non_blocking = false) =>
            to(dtype, device, copy, disposeAfter, non_blocking);

        public Tensor to(DeviceType deviceType, int deviceIndex = -1, bool copy = false, bool disposeAfter = false, bool non_blocking = false) =>
            to(new Device(deviceType, deviceIndex), copy, disposeAfter, non_blocking);

        public Tensor to(string device, bool copy = false, bool disposeAfter = false, bool non_blocking = false) =>
            to(new Device(device), copy, disposeAfter, non_blocking);

        public Tensor to(ScalarType type, Device device, bool copy = false, bool disposeAfter = false, bool non_blocking = false) =>
            DisposeAfter(Aten.to_device.Tensor(this, InitializeDevice(device), type, non_blocking, copy), disposeAfter);

        public Tensor to(Tensor other, bool non_blocking = false) => to(other.dtype, other.device, non_blocking: non_blocking);

        public Tensor type(ScalarType dtype) => to(dtype);

        public Tensor type_as(Tensor tensor) => to(tensor.dtype);

        public Tensor @float() => to(ScalarType.Float32);

        public Tensor @double() => to(ScalarType.Float64);

        public Tensor half() => to(ScalarType.Float16);

        public Tensor bfloat16() => to(ScalarType.BFloat16);

        public Tensor @long() => to(ScalarType.Int64);

        public Tensor @int() => to(ScalarType.Int32);

        public Tensor @short() => to(ScalarType.Int16);

        public Tensor @byte() => to(ScalarType.Byte);

        public Tensor @char() => to(ScalarType.Int8);

        public Tensor @bool() => to(ScalarType.Bool);

        /// <summary>Same type, shape and elements.</summary>
        public bool Equals(Tensor target) => target is not null && dtype == target.dtype && Aten.equal.Bool(this, target);

        public override bool Equals(object? obj) => obj is Tensor other && Equals(other);

        public override int GetHashCode() => RuntimeHelpers.GetHashCode(this);

        public override string ToString() =>
            $"[{string.Join("x", shape)}], type = {dtype}, device = {device}";

        protected virtual void Dispose(bool disposing)
        {
            if (_handle == 0)
            {
                return;
            }

            CountDisposed();
            Native.peft_release(_handle);
            _handle = 0;
        }

        private void CountDisposed()
        {
            DisposeScopeManager.Current.CountDisposed(OwningDisposeScope is not null);
            OwningDisposeScope?.MarkAsDisposed(this);
            Interlocked.Decrement(ref s_totalCount);
        }

        private Tensor DisposeAfter(Tensor result, bool dispose)
        {
            if (dispose)
            {
                Dispose();
            }

            return result;
        }

        private long Wrap(int dim)
        {
            var count = Dimensions;
            return dim >= -count && dim < count
                ? dim < 0 ? dim + count : dim
                : throw new ArgumentOutOfRangeException(nameof(dim), $"Dimension out of range (expected to be in range of [{-count}, {count - 1}], but got {dim})");
        }
    }
}
