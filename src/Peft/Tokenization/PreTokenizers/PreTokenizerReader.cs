using Peft.Tokenization.Patterns;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.PreTokenizers;

/// <summary>Reads the <c>pre_tokenizer</c> part of tokenizer.json.</summary>
internal static class PreTokenizerReader
{
    /// <summary>Reads a pre-tokenizer.</summary>
    public static PreTokenizer Read(JsonFields fields)
    {
        var type = fields.String("type");
        return type switch
        {
            "ByteLevel" => new ByteLevelPreTokenizer(fields.Boolean("add_prefix_space", true), fields.Boolean("use_regex", true)),
            "BertPreTokenizer" => new SequencePreTokenizer([
                new MatchSplitter(new CodePointMatcher(CharacterClass.IsWhiteSpace), SplitBehavior.Removed),
                new MatchSplitter(new CodePointMatcher(RustUnicodeTables.IsPunctuation), SplitBehavior.Isolated)]),
            "Whitespace" => new MatchSplitter(WordMatcher.Instance, SplitBehavior.Removed, invert: true),
            "WhitespaceSplit" => new MatchSplitter(new CodePointMatcher(CharacterClass.IsWhiteSpace), SplitBehavior.Removed),
            "Punctuation" => new MatchSplitter(new CodePointMatcher(RustUnicodeTables.IsPunctuation), Behavior(fields, SplitBehavior.Isolated)),
            "Digits" => new MatchSplitter(new CodePointMatcher(RustUnicodeTables.IsNumeric),
                fields.Boolean("individual_digits", false) ? SplitBehavior.Isolated : SplitBehavior.Contiguous),
            "CharDelimiterSplit" => Delimiter(fields),
            "Split" => new MatchSplitter(PatternReader.Read(fields), Behavior(fields, SplitBehavior.Isolated), fields.Boolean("invert", false)),
            "UnicodeScripts" => new ScriptSplitter(),
            "FixedLength" => new FixedLengthSplitter(fields.Integer("length", 5)),
            "Metaspace" => Metaspace(fields),
            "Sequence" => new SequencePreTokenizer([.. fields.Objects("pretokenizers").Select(Read)]),
            _ => throw new NotSupportedByPeftException("TokenizerComponentNotSupported", $"{fields.Path} has the type \"{type}\", which isn't known."),
        };
    }

    /// <summary>The fields of Metaspace, in their present and their older spelling.</summary>
    public static (char Replacement, PrependScheme Scheme, bool Split) MetaspaceFields(JsonFields fields)
    {
        var replacement = fields.OptionalString("replacement") ?? "\u2581";
        if (replacement.Length != 1)
        {
            throw new PeftException("TokenizerFileInvalid", $"{fields.Path}.replacement is \"{replacement}\", which isn't one character.");
        }

        var scheme = fields.OptionalString("prepend_scheme") switch
        {
            null => fields.Boolean("add_prefix_space", true) ? PrependScheme.Always : PrependScheme.Never,
            "always" => PrependScheme.Always,
            "never" => PrependScheme.Never,
            "first" => PrependScheme.First,
            var other => throw new NotSupportedByPeftException("TokenizerComponentNotSupported", $"{fields.Path}.prepend_scheme is \"{other}\", which isn't known."),
        };
        return (replacement[0], scheme, fields.Boolean("split", true));
    }

    private static MetaspacePreTokenizer Metaspace(JsonFields fields)
    {
        var (replacement, scheme, split) = MetaspaceFields(fields);
        return new MetaspacePreTokenizer(replacement, scheme, split);
    }

    private static MatchSplitter Delimiter(JsonFields fields)
    {
        var delimiter = fields.CodePoint("delimiter");
        return new MatchSplitter(new CodePointMatcher(codePoint => codePoint == delimiter), SplitBehavior.Removed);
    }

    private static SplitBehavior Behavior(JsonFields fields, SplitBehavior otherwise)
    {
        var name = fields.OptionalString("behavior");
        return name is null ? otherwise : Enum.TryParse<SplitBehavior>(name, out var behavior)
            ? behavior
            : throw new NotSupportedByPeftException("TokenizerComponentNotSupported", $"{fields.Path}.behavior is \"{name}\", which isn't known.");
    }
}

/// <summary>Reads the <c>pattern</c> field that Split and Replace have.</summary>
internal static class PatternReader
{
    /// <summary>A fixed string or a pattern in Oniguruma's syntax.</summary>
    public static Matcher Read(JsonFields fields)
    {
        var pattern = fields.Object("pattern");
        // The tokenizers library turns a string into a pattern too, and the empty one matches everywhere.
        if (pattern.OptionalString("String") is { } text)
        {
            return text.Length == 0 ? PatternMatcher.Make(text, pattern.Path) : new StringMatcher(text);
        }

        return PatternMatcher.Make(pattern.String("Regex"), pattern.Path);
    }
}
