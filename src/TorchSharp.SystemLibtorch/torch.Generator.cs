namespace TorchSharp;

public static partial class torch
{
    public static Generator manual_seed(long seed) => Generator.Default.manual_seed(seed);

    public static long seed() => Generator.Default.seed();

    public static long initial_seed() => Generator.Default.initial_seed();

    public static Tensor get_rng_state() => Generator.Default.get_state();

    public static void set_rng_state(Tensor new_state) => Generator.Default.set_state(new_state);

    /// <summary>The default generator's functions, under their other name.</summary>
    public static class random
    {
        public static Generator manual_seed(long seed) => torch.manual_seed(seed);

        public static long seed() => torch.seed();

        public static long initial_seed() => torch.initial_seed();

        public static Tensor get_rng_state() => torch.get_rng_state();

        public static void set_rng_state(Tensor new_state) => torch.set_rng_state(new_state);
    }

    /// <summary>A source of random numbers of one device with a state of its own.</summary>
    public class Generator : IDisposable
    {
        private static readonly Lazy<Generator> s_theDefault = new(() => new Generator(Native.Check(Native.peft_default_generator((int)DeviceType.CPU, -1)), CPU));

        private nint _handle;

        public Generator(ulong seed = 0, Device? device = null)
        {
            this.device = InitializeDevice(device);
            _handle = Native.Check(Native.peft_generator(seed, (int)this.device.type, this.device.index));
        }

        private Generator(nint handle, Device device) => (_handle, this.device) = (handle, device);

        ~Generator() => Dispose(false);

        public static Generator Default => s_theDefault.Value;

        public Device device { get; }

        public nint Handle => _handle != 0 ? _handle : throw new ObjectDisposedException(nameof(Generator));

        public Generator manual_seed(long seed)
        {
            Native.Check(Native.peft_generator_set_seed(Handle, (ulong)seed));
            return this;
        }

        /// <summary>Takes a seed from the system, and returns it.</summary>
        public long seed() => (long)Native.peft_generator_seed(Handle);

        public long initial_seed() => (long)Native.peft_generator_initial_seed(Handle);

        public Tensor get_state() => new(Native.Check(Native.peft_generator_state(Handle)));

        public void set_state(Tensor value) => Native.Check(Native.peft_generator_set_state(Handle, value.Handle));

        public void Dispose()
        {
            Dispose(true);
            GC.SuppressFinalize(this);
        }

        protected virtual void Dispose(bool disposing)
        {
            if (_handle != 0)
            {
                Native.peft_release_generator(_handle);
                _handle = 0;
            }
        }
    }
}
