namespace Peft.Tokenization.Text;

/// <summary>Unicode scripts.</summary>
internal enum Script
{
    Any,
}

/// <summary>Looks scripts up.</summary>
internal static class Scripts
{
    /// <summary>The script that the UnicodeScripts pre-tokenizer takes a code point for.</summary>
    public static Script Fixed(int codePoint) =>
        throw new NotSupportedByPeftException("TokenizerComponentNotSupported", $"The script of U+{codePoint:X4} isn't known.");
}
