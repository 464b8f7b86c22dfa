using System.Text;
using Peft.Tokenization;

namespace Peft.Generation;

/// <summary>
/// A row's text as it grows: gives out what can no longer change (whole characters, nothing that may be the beginning of a stop string)
/// and notices when a stop string is complete.
/// </summary>
internal sealed class TextStream
{
    private readonly StreamingDecoder _decoder;
    private readonly IReadOnlyList<string> _stopStrings;
    private readonly StringBuilder _text = new();
    private int _given;

    public TextStream(Tokenizer tokenizer, GenerationOptions options)
    {
        _decoder = tokenizer.CreateDecoder(skipSpecialTokens: !options.ShowSpecialTokens);
        _stopStrings = options.StopStrings;
    }

    /// <summary>Whether a stop string was reached; the text ends before it.</summary>
    public bool IsStopped { get; private set; }

    /// <summary>The text so far.</summary>
    public string Text => _text.ToString();

    /// <summary>Adds a token and returns the text that is now certain.</summary>
    public string Append(int id) => Take(_decoder.Append(id), final: false);

    /// <summary>Ends the text and returns what was held back.</summary>
    public string Finish() => IsStopped ? "" : Take(_decoder.Flush(), final: true);

    private string Take(string piece, bool final)
    {
        var searchFrom = Math.Max(0, _text.Length - LongestStop);
        _text.Append(piece);
        var tail = _text.ToString(searchFrom, _text.Length - searchFrom);
        var end = FirstStop(tail);
        if (end >= 0)
        {
            IsStopped = true;
            _text.Length = searchFrom + end;
            final = true;
        }

        var certain = final ? _text.Length : _text.Length - HeldBack(tail);
        if (certain <= _given)
        {
            return "";
        }

        var fresh = _text.ToString(_given, certain - _given);
        _given = certain;
        return fresh;
    }

    private int LongestStop => _stopStrings.Count == 0 ? 0 : _stopStrings.Max(static stop => stop.Length);

    private int FirstStop(string tail)
    {
        var first = -1;
        foreach (var stop in _stopStrings)
        {
            var at = tail.IndexOf(stop, StringComparison.Ordinal);
            first = at >= 0 && (first < 0 || at < first) ? at : first;
        }

        return first;
    }

    /// <summary>Length of the longest end of the text that is the beginning of a stop string.</summary>
    private int HeldBack(string tail)
    {
        var held = 0;
        foreach (var stop in _stopStrings)
        {
            for (var length = Math.Min(stop.Length - 1, tail.Length); length > held; length--)
            {
                if (tail.AsSpan(tail.Length - length).SequenceEqual(stop.AsSpan(0, length)))
                {
                    held = length;
                    break;
                }
            }
        }

        return held;
    }
}
