using System.Runtime.CompilerServices;

using static TorchSharp.torch;

namespace TorchSharp;

/// <summary>One of libtorch's operators, found by its schema's name and overload at its first call.</summary>
internal sealed unsafe class Operator(string name, string overload = "")
{
    private const int InlineWords = 64;
    private nint _handle;

    private nint Handle => _handle != 0 ? _handle : _handle = Native.Check(Native.peft_operator(name, overload));

    /// <summary>Whether this libtorch has it: the set of operators changes from version to version.</summary>
    public bool Exists => _handle != 0 || (_handle = Native.peft_operator(name, overload)) != 0;

    /// <summary>Calls an operator that makes one tensor.</summary>
    public Tensor Tensor(params ReadOnlySpan<Argument> arguments)
    {
        NativeValue result;
        Call(arguments, &result, 1);
        return new Tensor((nint)result.Bits);
    }

    /// <summary>Calls an operator that writes into its first argument, and returns that argument.</summary>
    public Tensor InPlace(params ReadOnlySpan<Argument> arguments)
    {
        Call(arguments, null, 0);
        return arguments[0].Tensor;
    }

    /// <summary>Calls an operator that makes two tensors.</summary>
    public (Tensor First, Tensor Second) Pair(params ReadOnlySpan<Argument> arguments)
    {
        var results = stackalloc NativeValue[2];
        Call(arguments, results, 2);
        return (new Tensor((nint)results[0].Bits), new Tensor((nint)results[1].Bits));
    }

    /// <summary>Calls an operator that makes three tensors.</summary>
    public (Tensor First, Tensor Second, Tensor Third) Triple(params ReadOnlySpan<Argument> arguments)
    {
        var results = stackalloc NativeValue[3];
        Call(arguments, results, 3);
        return (new Tensor((nint)results[0].Bits), new Tensor((nint)results[1].Bits), new Tensor((nint)results[2].Bits));
    }

    /// <summary>Calls an operator that makes a list of tensors.</summary>
    public Tensor[] List(params ReadOnlySpan<Argument> arguments)
    {
        NativeValue result;
        Call(arguments, &result, 1);
        var handles = (nint*)result.Bits;
        var tensors = new Tensor[result.Length];
        for (var i = 0; i < tensors.Length; i++)
        {
            tensors[i] = new Tensor(handles[i]);
        }

        Native.peft_free((nint)handles);
        return tensors;
    }

    /// <summary>Calls an operator that answers yes or no.</summary>
    public bool Bool(params ReadOnlySpan<Argument> arguments) => Value(arguments).Bits != 0;

    /// <summary>Calls an operator that returns a number or a truth value.</summary>
    public NativeValue Value(params ReadOnlySpan<Argument> arguments)
    {
        NativeValue result;
        Call(arguments, &result, 1);
        return result;
    }

    // The arguments lie on the caller's stack until the call is over, so that their tensors stay alive.
    [SkipLocalsInit]
    private void Call(ReadOnlySpan<Argument> arguments, NativeValue* results, int capacity)
    {
        var words = 0;
        foreach (ref readonly var argument in arguments)
        {
            words += argument.Words;
        }

        var values = stackalloc NativeValue[arguments.Length];
        var storage = words <= InlineWords ? stackalloc long[InlineWords] : new long[words];
        fixed (long* start = storage)
        {
            var next = start;
            for (var i = 0; i < arguments.Length; i++)
            {
                values[i] = arguments[i].Write(next);
                next += arguments[i].Words;
            }

            Native.Check(Native.peft_call(Handle, values, arguments.Length, results, capacity));
        }
    }
}
