using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using System.Text;

namespace Peft.Engine;

/// <summary>
/// Intel's MKL, which NuGet's libtorch is linked with, takes its fast kernels on Intel's processors alone: it asks a function of its own,
/// <c>mkl_serv_intel_cpu_true</c>, and on other vendors' falls back to older instructions, 2.2 times slower in float32 on an EPYC of 2024.
/// The function is called through the loader's symbol table, so another library that exports it and was loaded earlier answers first.
/// </summary>
/// <remarks>That is the preloaded function which PyTorch's users know, without a file, a compiler or a variable. What a kernel needs of the
/// processor MKL still asks the processor itself. <c>PEFT_MKL_KERNELS=vendor</c> leaves MKL's own choice.</remarks>
internal static class MklKernels
{
    private const string Function = "mkl_serv_intel_cpu_true";

    /// <summary>Whether MKL was told to go by the processor's instructions.</summary>
    public static bool IsToldByInstructions { get; private set; }

    /// <summary>Puts the answer in place; to be called before libtorch loads.</summary>
    public static void Apply()
    {
        if (OperatingSystem.IsLinux()
            && RuntimeInformation.ProcessArchitecture == Architecture.X64
            && Avx2.IsSupported
            && Fma.IsSupported
            && Vendor() != "GenuineIntel"
            && Environment.GetEnvironmentVariable("PEFT_MKL_KERNELS") != "vendor")
        {
            IsToldByInstructions = LinuxProcess.LoadForAll(OneFunctionLibrary.Make(Function, 1), "peft-mkl");
        }
    }

    /// <summary>The processor's maker, as <c>cpuid</c> says it.</summary>
    private static string Vendor()
    {
        var (_, b, c, d) = X86Base.CpuId(0, 0);
        Span<byte> text = stackalloc byte[12];
        MemoryMarshal.Write(text, b);
        MemoryMarshal.Write(text[4..], d);
        MemoryMarshal.Write(text[8..], c);
        return Encoding.ASCII.GetString(text);
    }
}
