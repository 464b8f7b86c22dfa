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
            "Sequence" => new SequenceNormalizer([.. fields.Objects("normalizers").Select(Read)]),
            _ => throw new NotSupportedByPeftException("TokenizerComponentNotSupported", $"{fields.Path} has the type \"{type}\", which isn't known."),
        };
    }
}
