namespace Peft.Tokenization.Text;

/// <summary>
/// Where the characters of a text came from in the original: either shifted by a constant (with an optional inserted prefix that shares the
/// place of the first character), or one span a character. Characters are UTF-16 units; both halves of a surrogate pair have the pair's span.
/// </summary>
internal sealed class Alignment
{
    /// <summary>Each character is its own origin.</summary>
    public static readonly Alignment Identity = new(0);

    private readonly int _shift;
    private readonly int[]? _starts;
    private readonly int[]? _ends;

    /// <summary>The character at <c>i</c> came from <c>i + shift</c>.</summary>
    public Alignment(int shift) => _shift = shift;

    /// <summary>One span a character.</summary>
    public Alignment(int[] starts, int[] ends)
    {
        _starts = starts;
        _ends = ends;
    }

    /// <summary>Whether spans follow from a constant shift.</summary>
    public bool IsShift => _starts is null;

    /// <summary>The constant shift.</summary>
    public int Shift => _shift;

    /// <summary>Start of the origin of character <paramref name="index"/> (which must begin a code point).</summary>
    public int Start(int index) => _starts is null ? index + _shift : _starts[index];

    /// <summary>End of the origin of character <paramref name="index"/> (which must be the last unit of a code point).</summary>
    public int End(int index) => _ends is null ? index + _shift + 1 : _ends[index];
}
