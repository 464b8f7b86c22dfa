using System.Reflection;
using TorchSharp;


namespace Peft.Tests.Engine;

/// <summary>Which engine these tests run on.</summary>
internal static class EngineFacts
{
    /// <summary>Gets a value indicating whether the assembly over the distribution's libtorch is loaded rather than TorchSharp's own.</summary>
    public static bool IsSystemLibtorch { get; } =
        typeof(torch).Assembly.GetCustomAttribute<AssemblyDescriptionAttribute>()?.Description.Contains("package manager", StringComparison.Ordinal) == true;
}
