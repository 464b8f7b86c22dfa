using System.Buffers.Binary;

namespace Peft.Tokenization.SentencePiece;

/// <summary>What a piece of a SentencePiece model is.</summary>
internal enum PieceType
{
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// <summary>How a SentencePiece model cuts text.</summary>
internal enum PieceModelType
{
    Unigram = 1,
    BytePair = 2,
    Word = 3,
    Character = 4,
}

/// <summary>A piece of the vocabulary.</summary>
internal readonly record struct VocabularyPiece(string Text, float Score, PieceType Type);

/// <summary>The content of a SentencePiece <c>.model</c> file, which is a protocol buffer.</summary>
internal sealed class SentencePieceFile
{
    private readonly List<VocabularyPiece> _pieces = [];

    private SentencePieceFile()
    {
    }

    /// <summary>The vocabulary in the order of ids.</summary>
    public IReadOnlyList<VocabularyPiece> Pieces => _pieces;

    public PieceModelType ModelType { get; private set; } = PieceModelType.Unigram;

    public bool ByteFallback { get; private set; }

    public bool WhitespaceIsSuffix { get; private set; }

    public bool AddDummyPrefix { get; private set; } = true;

    public bool RemoveExtraWhitespace { get; private set; } = true;

    public bool EscapeWhitespace { get; private set; } = true;

    public byte[] CharacterMap { get; private set; } = [];

    public string UnknownSurface { get; private set; } = " \u2047 ";

    /// <summary>Reads a file.</summary>
    /// <exception cref="PeftException">It is no SentencePiece model, or is cut off.</exception>
    public static SentencePieceFile Read(ReadOnlySpan<byte> bytes, string path)
    {
        var file = new SentencePieceFile();
        try
        {
            var reader = new ProtocolReader(bytes);
            while (reader.Next(out var field))
            {
                switch (field)
                {
                    case 1:
                        file.ReadPiece(reader.Bytes());
                        break;
                    case 2:
                        file.ReadTrainer(reader.Bytes());
                        break;
                    case 3:
                        file.ReadNormalizer(reader.Bytes());
                        break;
                    default:
                        reader.Skip();
                        break;
                }
            }
        }
        catch (FormatException error)
        {
            throw new PeftException("TokenizerFileInvalid", $"{path} is no SentencePiece model, or is cut off: {error.Message}", error) { Target = path };
        }

        return file._pieces.Count > 0 && Enum.IsDefined(file.ModelType)
            ? file
            : throw new PeftException("TokenizerFileInvalid", $"{path} is no SentencePiece model: it has {file._pieces.Count} pieces and model type {(int)file.ModelType}.") { Target = path };
    }

    private void ReadPiece(ReadOnlySpan<byte> bytes)
    {
        var reader = new ProtocolReader(bytes);
        var (text, score, type) = (string.Empty, 0f, PieceType.Normal);
        while (reader.Next(out var field))
        {
            switch (field)
            {
                case 1:
                    text = System.Text.Encoding.UTF8.GetString(reader.Bytes());
                    break;
                case 2:
                    score = reader.Single();
                    break;
                case 3:
                    type = (PieceType)reader.Integer();
                    break;
                default:
                    reader.Skip();
                    break;
            }
        }

        _pieces.Add(new VocabularyPiece(text, score, type));
    }

    private void ReadTrainer(ReadOnlySpan<byte> bytes)
    {
        var reader = new ProtocolReader(bytes);
        while (reader.Next(out var field))
        {
            switch (field)
            {
                case 3:
                    ModelType = (PieceModelType)reader.Integer();
                    break;
                case 24:
                    WhitespaceIsSuffix = reader.Integer() != 0;
                    break;
                case 35:
                    ByteFallback = reader.Integer() != 0;
                    break;
                case 44:
                    UnknownSurface = System.Text.Encoding.UTF8.GetString(reader.Bytes());
                    break;
                default:
                    reader.Skip();
                    break;
            }
        }
    }

    private void ReadNormalizer(ReadOnlySpan<byte> bytes)
    {
        var reader = new ProtocolReader(bytes);
        while (reader.Next(out var field))
        {
            switch (field)
            {
                case 2:
                    CharacterMap = reader.Bytes().ToArray();
                    break;
                case 3:
                    AddDummyPrefix = reader.Integer() != 0;
                    break;
                case 4:
                    RemoveExtraWhitespace = reader.Integer() != 0;
                    break;
                case 5:
                    EscapeWhitespace = reader.Integer() != 0;
                    break;
                default:
                    reader.Skip();
                    break;
            }
        }
    }
}

/// <summary>Reads the wire format of protocol buffers.</summary>
internal ref struct ProtocolReader(ReadOnlySpan<byte> bytes)
{
    private ReadOnlySpan<byte> _rest = bytes;
    private int _wire;

    /// <summary>Goes to the next field, if there is one.</summary>
    public bool Next(out int field)
    {
        if (_rest.IsEmpty)
        {
            field = 0;
            return false;
        }

        var tag = Varint();
        _wire = (int)(tag & 7);
        field = tag >> 3 is > 0 and < 1 << 29 ? (int)(tag >> 3) : throw new FormatException("a field has no number");
        return true;
    }

    /// <summary>The field's bytes.</summary>
    public ReadOnlySpan<byte> Bytes()
    {
        Expect(2);
        var length = Varint();
        return length <= (ulong)_rest.Length ? Take((int)length) : throw new FormatException("a field is longer than the file");
    }

    /// <summary>The field's whole number.</summary>
    public long Integer()
    {
        Expect(0);
        return (long)Varint();
    }

    /// <summary>The field's single-precision number.</summary>
    public float Single()
    {
        Expect(5);
        return BinaryPrimitives.ReadSingleLittleEndian(Take(4));
    }

    /// <summary>Steps over the field.</summary>
    public void Skip()
    {
        switch (_wire)
        {
            case 0:
                Varint();
                break;
            case 1:
                Take(8);
                break;
            case 2:
                Bytes();
                break;
            case 5:
                Take(4);
                break;
            default:
                throw new FormatException("a field has an unknown wire type");
        }
    }

    private readonly void Expect(int wire)
    {
        if (_wire != wire)
        {
            throw new FormatException("a field has another type than it should");
        }
    }

    private ReadOnlySpan<byte> Take(int count)
    {
        if (count > _rest.Length)
        {
            throw new FormatException("the file ends within a field");
        }

        var part = _rest[..count];
        _rest = _rest[count..];
        return part;
    }

    private ulong Varint()
    {
        ulong value = 0;
        for (var shift = 0; shift < 64; shift += 7)
        {
            var part = Take(1)[0];
            value |= (ulong)(part & 0x7F) << shift;
            if (part < 0x80)
            {
                return value;
            }
        }

        throw new FormatException("a number is too long");
    }
}
