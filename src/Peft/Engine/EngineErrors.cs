using System.Runtime.InteropServices;

namespace Peft.Engine;

/// <summary>Errors of the engine that say something to a user, told from its other ones by their text, for libtorch has one type for all.</summary>
public static class EngineErrors
{
    /// <summary>Whether an exception of the engine says that memory ran out, the processor's or a GPU's.</summary>
    public static bool IsOutOfMemory(Exception error) => error is OutOfMemoryException
        || (error is ExternalException
            && (error.Message.Contains("out of memory", StringComparison.OrdinalIgnoreCase)
                || error.Message.Contains("can't allocate memory", StringComparison.Ordinal)
                || error.Message.Contains("not enough memory", StringComparison.Ordinal)));

    /// <summary>The error <c>OutOfMemory</c> for it, with the first line of what libtorch says and with advice.</summary>
    public static PeftException OutOfMemory(Exception error)
    {
        var first = error.Message.AsSpan();
        var end = first.IndexOfAny('\r', '\n');
        return new PeftException("OutOfMemory", $"Memory ran out: {(end < 0 ? first : first[..end])}", error)
        {
            RecommendedAction = "Use a smaller batch with more gradient accumulation, shorter examples, gradient checkpointing or bfloat16; Remove-PeftModel frees models that aren't needed.",
        };
    }
}
