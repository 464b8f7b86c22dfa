using System.Buffers.Binary;
using System.Reflection;
using Peft.Tests.Adapters;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Engine;

/// <summary>What native code reads is not finalised meanwhile.</summary>
[Collection(LiveTensors.Name)]
public sealed class HeldHandleTests
{
    private const int Rounds = 3_000;

    [Fact]
    public void Numbers_that_convert_implicitly_outlive_the_native_call_that_reads_them()
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var (ones, sum, ended) = (torch.ones(8), zeros(8), false);
        Thread[] others = [.. new Action[] { () => GC.Collect(0), () => _ = ((Scalar)1e300, (Scalar)true, (Scalar)1e300) }.Select(act => new Thread(() =>
        {
            while (!Volatile.Read(ref ended))
            {
                act();
            }
        }) { IsBackground = true })];
        Array.ForEach(others, static other => other.Start());
        try
        {
            for (var i = 0; i < Rounds; i++)
            {
                using var step = NewDisposeScope();
                sum.addcmul_(ones, ones, -1).add_(ones * 2.0 + ones).sub_(0.5f).add_(-1).mul_(1.0).clamp_(-1e6, 1e6);
                Assert.Equal(0.5f * (i + 1), sum[0].ToSingle());
            }
        }
        finally
        {
            Volatile.Write(ref ended, true);
            Array.ForEach(others, static other => other.Join());
        }
    }

    [SkippableFact]
    public void Every_method_that_hands_a_number_or_a_tensor_to_native_code_keeps_it_until_it_returns()
    {
        Skip.If(EngineFacts.IsSystemLibtorch, "the numbers of this engine own nothing native");
        MethodInfo[] handing =
        [
            .. ((Type[])[typeof(Tensor), typeof(linalg), typeof(ScalarExtensionMethods)])
                .SelectMany(static type => type.GetMethods(BindingFlags.Public | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly))
                .Where(static method => Hands(method) && Calls(method, IsNative)),
        ];
        Assert.True(handing.Length > 300);
        Assert.All(handing, static method => Assert.True(Calls(method, static called => called.Name == nameof(GC.KeepAlive)), method.ToString()));
    }

    private static bool Hands(MethodInfo method) =>
        method is { IsStatic: false, DeclaringType.Name: nameof(Tensor) } || method.GetParameters().Any(static parameter => parameter.ParameterType == typeof(Scalar) || parameter.ParameterType == typeof(Tensor));

    private static bool IsNative(MethodBase method) => method.Attributes.HasFlag(MethodAttributes.PinvokeImpl);

    /// <summary>Whether a method's code has a call to one of a kind: a call instruction is 0x28 and a token of four bytes.</summary>
    private static bool Calls(MethodInfo method, Predicate<MethodBase> kind)
    {
        var code = method.GetMethodBody()?.GetILAsByteArray() ?? [];
        return Enumerable.Range(0, Math.Max(0, code.Length - 4)).Any(at =>
            code[at] == 0x28 && BinaryPrimitives.ReadInt32LittleEndian(code.AsSpan(at + 1)) is var token && (token >> 24) is 0x06 or 0x0a
            && Resolve(method.Module, token) is { } called && kind(called));
    }

    private static MethodBase? Resolve(Module module, int token)
    {
        try
        {
            return module.ResolveMethod(token);
        }
        catch (Exception error) when (error is ArgumentException or BadImageFormatException)
        {
            return null;
        }
    }
}
