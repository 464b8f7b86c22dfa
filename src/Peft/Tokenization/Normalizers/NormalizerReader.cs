namespace Peft.Tokenization.Normalizers;

/// <summary>Reads the <c>normalizer</c> part of tokenizer.json.</summary>
internal static class NormalizerReader
{
    /// <summary>Reads a normalizer.</summary>
    public static Normalizer Read(JsonFields fields)
    {
        var type = fields.String("type");
        return type switch
        {
            "NFC" => new FormNormalizer(compatible: false, compose: true),
            "NFD" => new FormNormalizer(compatible: false, compose: false),
            "NFKC" => new FormNormalizer(compatible: true, compose: true),
            "NFKD" => new FormNormalizer(compatible: true, compose: false),
            "Nmt" => new NmtNormalizer(),
            "Lowercase" => new LowercaseNormalizer(),
            "Strip" => new StripNormalizer(fields.Boolean("strip_left", true), fields.Boolean("strip_right", true)),
            "StripAccents" => new StripAccentsNormalizer(),
            "Replace" => new ReplaceNormalizer(PreTokenizers.PatternReader.Read(fields), fields.String("content"), ReplacedCharacter(fields)),
            "Prepend" => new PrependNormalizer(fields.String("prepend")),
            "BertNormalizer" => Bert(fields),
            "Precompiled" => Precompiled(fields),
            "ByteLevel" => new ByteLevelNormalizer(),
            "Sequence" => new SequenceNormalizer([.. fields.Objects("normalizers").Select(Read)]),
            _ => throw new NotSupportedByPeftException("TokenizerComponentNotSupported", $"{fields.Path} has the type \"{type}\", which isn't known."),
        };
    }

    private static BertNormalizer Bert(JsonFields fields)
    {
        var lower = fields.Boolean("lowercase", true);
        return new BertNormalizer(fields.Boolean("clean_text", true), fields.Boolean("handle_chinese_chars", true),
            fields.Boolean("strip_accents", lower), lower);
    }

    private static PrecompiledNormalizer Precompiled(JsonFields fields)
    {
        var text = fields.OptionalString("precompiled_charsmap") ?? string.Empty;
        var bytes = new byte[(text.Length * 3 / 4) + 3];
        return Convert.TryFromBase64String(text, bytes, out var count)
            ? new PrecompiledNormalizer(new CharacterMap(bytes.AsSpan(0, count), fields.Path))
            : throw new PeftException("TokenizerFileInvalid", $"{fields.Path}.precompiled_charsmap isn't base64.");
    }

    /// <summary>The character that a plain one-for-one replacement looks for, which needs no search by pattern.</summary>
    private static char? ReplacedCharacter(JsonFields fields) =>
        fields.Object("pattern").OptionalString("String") is [var only] && !char.IsSurrogate(only) && fields.String("content") is [var with] && !char.IsSurrogate(with)
            ? only
            : null;
}
