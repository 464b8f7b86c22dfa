namespace Peft.Engine.Steps;

/// <summary>Weights that a thread will read next, as far as its cache has room for them while it waits or computes something else.</summary>
internal unsafe struct WeightsAhead
{
    private const long Most = 1 << 16;

    private byte* _next;
    private byte* _end;

    /// <summary>The first that some parts of an operation read; some of it is called at once.</summary>
    /// <param name="operation">The operation.</param>
    /// <param name="from">The first part.</param>
    /// <param name="to">The part after the last.</param>
    public static WeightsAhead Of(StepOperation operation, long from, long to)
    {
        var (start, bytes) = operation.Weights(from, to);
        var ahead = new WeightsAhead { _next = (byte*)start, _end = (byte*)start + Math.Min(bytes, Most) };
        for (var called = 0; called < ReadAhead.Bytes && ahead.CallNext(); called += ReadAhead.Line)
        {
        }

        return ahead;
    }

    /// <summary>Calls the next line, if there is one.</summary>
    public bool CallNext()
    {
        if (_next >= _end)
        {
            return false;
        }

        ReadAhead.At(_next);
        _next += ReadAhead.Line;
        return true;
    }
}
