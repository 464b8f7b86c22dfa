namespace Peft.Tokenization;

/// <summary>The files a tokenizer was read from, byte for byte, so that they can be written again.</summary>
internal sealed record TokenizerFiles(IReadOnlyDictionary<string, byte[]> Contents)
{
    /// <summary>No files.</summary>
    public static readonly TokenizerFiles None = new(new Dictionary<string, byte[]>(StringComparer.Ordinal));
}
