using Peft.Tokenization.PreTokenizers;

namespace Peft.Tokenization.Decoders;

/// <summary>Reads the <c>decoder</c> part of tokenizer.json.</summary>
internal static class DecoderReader
{
    /// <summary>Reads a decoder.</summary>
    public static Decoder Read(JsonFields fields)
    {
        var type = fields.String("type");
        return type switch
        {
            "ByteLevel" => new ByteLevelDecoder(),
            "WordPiece" => new WordPieceDecoder(fields.OptionalString("prefix") ?? "##", fields.Boolean("cleanup", true)),
            "BPEDecoder" => new BytePairDecoder(fields.OptionalString("suffix") ?? "</w>"),
            "CTC" => new CtcDecoder(fields.OptionalString("pad_token") ?? "<pad>", fields.OptionalString("word_delimiter_token") ?? "|",
                fields.Boolean("cleanup", true)),
            "ByteFallback" => new ByteFallbackDecoder(),
            "Fuse" => new FuseDecoder(),
            "Strip" => new StripDecoder(fields.CodePoint("content"), fields.Integer("start", 0), fields.Integer("stop", 0)),
            "Replace" => new ReplaceDecoder(PatternReader.Read(fields), fields.String("content")),
            "Metaspace" => Metaspace(fields),
            "Sequence" => new SequenceDecoder([.. fields.Objects("decoders").Select(Read)]),
            _ => throw new NotSupportedByPeftException("TokenizerComponentNotSupported", $"{fields.Path} has the type \"{type}\", which isn't known."),
        };
    }

    private static MetaspaceDecoder Metaspace(JsonFields fields)
    {
        var (replacement, scheme, _) = PreTokenizerReader.MetaspaceFields(fields);
        return new MetaspaceDecoder(replacement, scheme != PrependScheme.Never);
    }
}
