using System.Globalization;
using System.Text;
using Peft.Tokenization.Models;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.SentencePiece;

/// <summary>A SentencePiece model run as SentencePiece runs it: its own normalization, then unigram, byte-pair, word or character pieces.</summary>
internal sealed class SentencePieceModel : TokenModel
{
    private const char Blank = '\u2581';
    private readonly SentencePieceFile _file;
    private readonly SentencePieceNormalizer _normalizer;
    private readonly CharTrie? _symbols;
    private readonly PieceCutter _cutter;
    private readonly Func<int, int> _map;
    private readonly Dictionary<int, int> _unmapped = [];
    private readonly int _unknown;
    private readonly int[] _bytes = new int[256];
    private readonly bool _prefixOnlyFirst;

    /// <summary>A model.</summary>
    /// <param name="file">The file's content.</param>
    /// <param name="path">The file's name, for messages.</param>
    /// <param name="map">From the file's ids to the tokenizer's.</param>
    /// <param name="prefixOnlyFirst">Whether only the stretch that starts the text gets a blank in front.</param>
    public SentencePieceModel(SentencePieceFile file, string path, Func<int, int> map, bool prefixOnlyFirst)
        : base(Index(file, map))
    {
        (_file, _map, _prefixOnlyFirst) = (file, map, prefixOnlyFirst);
        _unknown = file.Pieces.ToList().FindIndex(piece => piece.Type == PieceType.Unknown);
        if (_unknown < 0)
        {
            throw new PeftException("TokenizerFileInvalid", $"{path} has no piece for unknown characters.") { Target = path };
        }

        for (var id = 0; id < file.Pieces.Count; id++)
        {
            _unmapped[map(id)] = id;
        }

        _symbols = Symbols(file);
        _normalizer = new SentencePieceNormalizer(file, _symbols, path);
        _cutter = new PieceCutter(file, _symbols, _unknown);
        for (var b = 0; b < 256; b++)
        {
            _bytes[b] = file.ByteFallback
                ? _cutter.IdOf(string.Create(CultureInfo.InvariantCulture, $"<0x{b:X2}>"))
                : _unknown;
        }
    }

    /// <inheritdoc/>
    public override bool DecodesIds => true;

    /// <summary>The normalized text.</summary>
    public string Normalize(string text) => _normalizer.Normalize(text, prefix: true).Text;

    /// <inheritdoc/>
    public override void Tokenize(ReadOnlySpan<char> piece, TokenSink sink)
    {
        var start = sink.Origin;
        var (text, origins) = _normalizer.Normalize(piece, prefix: !_prefixOnlyFirst || start == 0);
        var pieces = _cutter.Cut(text);
        var at = 0;
        var unknownFrom = -1;
        foreach (var (length, id) in pieces)
        {
            var end = at + length;
            if (id == _unknown && !_file.ByteFallback)
            {
                unknownFrom = unknownFrom < 0 ? at : unknownFrom;
                at = end;
                continue;
            }

            FlushUnknown(at);
            if (id == _unknown)
            {
                AddBytes(text.AsSpan(at, length), start + origins[at], start + origins[end], sink);
            }
            else
            {
                sink.AddAt(_map(id), start + origins[at], start + origins[end], null);
            }

            at = end;
        }

        FlushUnknown(at);

        // Neighbouring unknown pieces are one.
        void FlushUnknown(int end)
        {
            if (unknownFrom >= 0)
            {
                sink.AddAt(_map(_unknown), start + origins[unknownFrom], start + origins[end], text[unknownFrom..end]);
                unknownFrom = -1;
            }
        }
    }

    /// <inheritdoc/>
    public override string Decode(IReadOnlyList<(int Id, string? Added)> tokens)
    {
        var text = new StringBuilder();
        var run = new List<byte>();
        var atStart = true;
        var blankSeen = false;
        foreach (var (token, added) in tokens)
        {
            var known = _unmapped.TryGetValue(token, out var id);
            var type = known ? _file.Pieces[id].Type : PieceType.Control;
            if (type == PieceType.Byte && added is null)
            {
                run.Add(byte.Parse(_file.Pieces[id].Text.AsSpan(3, 2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture));
                continue;
            }

            Flush(run, text);
            if (blankSeen || text.Length > 0)
            {
                atStart = false;
            }

            blankSeen = false;
            text.Append(added ?? (type switch
            {
                PieceType.Control => string.Empty,
                PieceType.Unknown => _file.UnknownSurface,
                _ => Surface(_file.Pieces[id].Text, atStart, out blankSeen),
            }));
        }

        Flush(run, text);
        return text.ToString();
    }

    private static CharTrie? Symbols(SentencePieceFile file)
    {
        var symbols = new CharTrie();
        var any = false;
        for (var id = 0; id < file.Pieces.Count; id++)
        {
            if (file.Pieces[id].Type == PieceType.UserDefined && file.Pieces[id].Text.Length > 0)
            {
                any |= symbols.Add(file.Pieces[id].Text, id);
            }
        }

        return any ? symbols : null;
    }

    private static Dictionary<string, int> Index(SentencePieceFile file, Func<int, int> map)
    {
        var index = new Dictionary<string, int>(file.Pieces.Count, StringComparer.Ordinal);
        for (var id = 0; id < file.Pieces.Count; id++)
        {
            index.TryAdd(file.Pieces[id].Text, map(id));
        }

        return index;
    }

    private string Surface(string piece, bool atStart, out bool blankSeen)
    {
        blankSeen = false;
        if (atStart && (_file.AddDummyPrefix || _file.RemoveExtraWhitespace) && piece.StartsWith(Blank))
        {
            piece = piece[1..];
            blankSeen = !_file.RemoveExtraWhitespace;
        }

        return piece.Replace(Blank, ' ');
    }

    private void AddBytes(ReadOnlySpan<char> text, int start, int end, TokenSink sink)
    {
        var bytes = System.Text.Encoding.UTF8.GetBytes(text.ToString());
        for (var i = 0; i < bytes.Length; i++)
        {
            sink.AddAt(_map(_bytes[bytes[i]]), start, i == bytes.Length - 1 ? end : start, null);
        }
    }

    /// <summary>Turns a run of byte pieces into characters; bytes that make none become U+FFFD one by one.</summary>
    private static void Flush(List<byte> run, StringBuilder text)
    {
        for (var i = 0; i < run.Count;)
        {
            var valid = Rune.DecodeFromUtf8([.. run.Skip(i).Take(4)], out var rune, out var length) == System.Buffers.OperationStatus.Done;
            text.Append(valid ? rune.ToString() : "\uFFFD");
            i += valid ? length : 1;
        }

        run.Clear();
    }
}
