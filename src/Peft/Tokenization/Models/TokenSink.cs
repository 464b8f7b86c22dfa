using Peft.Tokenization.Text;

namespace Peft.Tokenization.Models;

/// <summary>Collects the tokens of one text, with their places in the original.</summary>
internal sealed class TokenSink
{
    private readonly bool _idsOnly;
    private int[] _ids;
    private (int Start, int End)[] _offsets;
    private int[] _words;
    private Dictionary<int, string>? _ownTexts;
    private Alignment _map = Alignment.Identity;
    private int _origin;
    private int _start;
    private int _word;

    /// <summary>An empty sink.</summary>
    /// <param name="idsOnly">Whether offsets and word ids are wanted by nobody.</param>
    /// <param name="capacity">How many tokens are expected.</param>
    public TokenSink(bool idsOnly, int capacity)
    {
        _idsOnly = idsOnly;
        _ids = new int[Math.Max(capacity, 8)];
        _offsets = idsOnly ? [] : new (int, int)[_ids.Length];
        _words = idsOnly ? [] : new int[_ids.Length];
    }

    /// <summary>The number of tokens.</summary>
    public int Count { get; private set; }

    /// <summary>Says which piece the next tokens belong to.</summary>
    public void Begin(in TextSpan piece, int word)
    {
        _map = piece.Map;
        _start = piece.Start;
        _origin = piece.OriginalStart;
        _word = word;
    }

    /// <summary>Adds a token that covers the units from <paramref name="start"/> to <paramref name="end"/> of the piece.</summary>
    public void Add(int id, int start, int end)
    {
        var count = Count;
        if (count == _ids.Length)
        {
            Grow(count + 1);
        }

        _ids[count] = id;
        Count = count + 1;
        if (_idsOnly)
        {
            return;
        }

        _words[count] = _word;
        if (_map.IsShift && start < end)
        {
            var shift = _map.Shift + _start;
            _offsets[count] = (shift + start, shift + end);
        }
        else
        {
            _offsets[count] = start < end ? (_map.Start(_start + start), _map.End(_start + end - 1)) : (_origin + start, _origin + start);
        }
    }

    /// <summary>Adds a token that isn't spelled as its vocabulary entry is.</summary>
    public void Add(int id, int start, int end, string text)
    {
        if (!_idsOnly)
        {
            (_ownTexts ??= [])[Count] = text;
        }

        Add(id, start, end);
    }

    /// <summary>Where the present piece starts in the original.</summary>
    public int Origin => _origin;

    /// <summary>Adds a token with its place in the original, and its spelling where the vocabulary has another.</summary>
    public void AddAt(int id, int start, int end, string? text)
    {
        if (text is not null && !_idsOnly)
        {
            (_ownTexts ??= [])[Count] = text;
        }

        Add(id, 0, 0);
        if (!_idsOnly)
        {
            _offsets[Count - 1] = (start, end);
        }
    }

    /// <summary>Makes an encoding of what was collected.</summary>
    public TokenEncoding ToEncoding(Tokenizer tokenizer, int typeId)
    {
        var count = Count;
        var typeIds = new int[count];
        if (typeId != 0)
        {
            Array.Fill(typeIds, typeId);
        }

        var attention = new int[count];
        Array.Fill(attention, 1);
        return new TokenEncoding(tokenizer, Ids(), typeIds, attention, new int[count], _offsets.AsSpan(0, count).ToArray(),
            _words.AsSpan(0, count).ToArray(), new int[count], _ownTexts);
    }

    /// <summary>The ids alone.</summary>
    public int[] Ids() => _ids.Length == Count ? _ids : _ids.AsSpan(0, Count).ToArray();

    private void Grow(int needed)
    {
        var size = Math.Max(needed, checked(_ids.Length * 2));
        Array.Resize(ref _ids, size);
        if (!_idsOnly)
        {
            Array.Resize(ref _offsets, size);
            Array.Resize(ref _words, size);
        }
    }
}
