using System.Globalization;

namespace TorchSharp;

public static partial class torch
{
    public static readonly Device CPU = new(DeviceType.CPU);

    public static readonly Device META = new(DeviceType.META);

    public static Device CUDA => InitializeDevice(new Device(DeviceType.CUDA));

    public static Device device(string description) => InitializeDevice(new Device(description));

    public static Device device(string deviceType, int index = -1) => InitializeDevice(new Device(deviceType, index));

    public static Device device(DeviceType deviceType, int index = -1) => InitializeDevice(new Device(deviceType, index));

    public static Device device(int index) => new(index);

    /// <summary>The device itself, or the default where there is none. The distribution's libtorch has no CUDA.</summary>
    public static Device InitializeDevice(Device? device)
    {
        device ??= CPU;
        InitializeDeviceType(device.type);
        return device;
    }

    public static void InitializeDeviceType(DeviceType deviceType)
    {
        if (!TryInitializeDeviceType(deviceType))
        {
            throw new InvalidOperationException($"Torch device type {deviceType} did not initialise on the current machine.");
        }
    }

    public static bool TryInitializeDeviceType(DeviceType deviceType) => deviceType is DeviceType.CPU or DeviceType.META;

    public static bool cuda_is_available() => cuda.is_available();

    public static bool mps_is_available() => false;

    /// <summary>What a program asks of CUDA; the distribution's libtorch is built without it.</summary>
    public static class cuda
    {
        public static bool is_available() => false;

        public static bool is_cudnn_available() => false;

        public static int device_count() => 0;

        public static void manual_seed(long seed) => _ = seed;

        public static void manual_seed_all(long seed) => _ = seed;

        public static void synchronize(Device? device = null) => InitializeDeviceType((device ?? new Device(DeviceType.CUDA)).type);
    }

    /// <summary>A kind of device and which of that kind, -1 for the current one.</summary>
    public class Device
    {
        public Device(string description)
        {
            var parts = description.Split(':');
            type = Parse(parts[0]);
            index = parts.Length == 2 ? int.Parse(parts[1], CultureInfo.InvariantCulture) : -1;
        }

        public Device(string deviceType, int index = -1)
            : this(Parse(deviceType), index)
        {
        }

        public Device(DeviceType deviceType, int index = -1)
        {
            type = deviceType;
            this.index = index;
        }

        public Device(int index)
            : this(DeviceType.CUDA, index)
        {
        }

        public DeviceType type { get; } = DeviceType.CPU;

        public int index { get; } = -1;

        public static implicit operator Device(string description) => new(description);

        public override string ToString()
        {
            var name = type.ToString().ToLowerInvariant();
            return type == DeviceType.CPU || index == -1 ? name : string.Create(CultureInfo.InvariantCulture, $"{name}:{index}");
        }

        private static DeviceType Parse(string name) => Enum.Parse<DeviceType>(name, ignoreCase: true);
    }
}
