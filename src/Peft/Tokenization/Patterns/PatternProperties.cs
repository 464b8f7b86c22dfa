using System.Collections.Concurrent;
using System.Globalization;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.Patterns;

/// <summary>The named sets of patterns, as Oniguruma defines them for Unicode.</summary>
internal static class PatternProperties
{
    private static readonly Lazy<byte[]> s_categories = new(() =>
    {
        var categories = new byte[CodePointSet.End];
        for (var i = 0; i < categories.Length; i++)
        {
            categories[i] = (byte)CharacterClass.Category(i);
        }

        return categories;
    });

    private static readonly ConcurrentDictionary<string, CodePointSet?> s_sets = new(StringComparer.Ordinal);

    private static readonly Dictionary<string, UnicodeCategory[]> s_groups = new(StringComparer.Ordinal)
    {
        ["l"] = [UnicodeCategory.UppercaseLetter, UnicodeCategory.LowercaseLetter, UnicodeCategory.TitlecaseLetter, UnicodeCategory.ModifierLetter, UnicodeCategory.OtherLetter],
        ["lc"] = [UnicodeCategory.UppercaseLetter, UnicodeCategory.LowercaseLetter, UnicodeCategory.TitlecaseLetter],
        ["lu"] = [UnicodeCategory.UppercaseLetter],
        ["ll"] = [UnicodeCategory.LowercaseLetter],
        ["lt"] = [UnicodeCategory.TitlecaseLetter],
        ["lm"] = [UnicodeCategory.ModifierLetter],
        ["lo"] = [UnicodeCategory.OtherLetter],
        ["m"] = [UnicodeCategory.NonSpacingMark, UnicodeCategory.SpacingCombiningMark, UnicodeCategory.EnclosingMark],
        ["mn"] = [UnicodeCategory.NonSpacingMark],
        ["mc"] = [UnicodeCategory.SpacingCombiningMark],
        ["me"] = [UnicodeCategory.EnclosingMark],
        ["n"] = [UnicodeCategory.DecimalDigitNumber, UnicodeCategory.LetterNumber, UnicodeCategory.OtherNumber],
        ["nd"] = [UnicodeCategory.DecimalDigitNumber],
        ["nl"] = [UnicodeCategory.LetterNumber],
        ["no"] = [UnicodeCategory.OtherNumber],
        ["p"] = [UnicodeCategory.ConnectorPunctuation, UnicodeCategory.DashPunctuation, UnicodeCategory.OpenPunctuation, UnicodeCategory.ClosePunctuation,
            UnicodeCategory.InitialQuotePunctuation, UnicodeCategory.FinalQuotePunctuation, UnicodeCategory.OtherPunctuation],
        ["pc"] = [UnicodeCategory.ConnectorPunctuation],
        ["pd"] = [UnicodeCategory.DashPunctuation],
        ["ps"] = [UnicodeCategory.OpenPunctuation],
        ["pe"] = [UnicodeCategory.ClosePunctuation],
        ["pi"] = [UnicodeCategory.InitialQuotePunctuation],
        ["pf"] = [UnicodeCategory.FinalQuotePunctuation],
        ["po"] = [UnicodeCategory.OtherPunctuation],
        ["s"] = [UnicodeCategory.MathSymbol, UnicodeCategory.CurrencySymbol, UnicodeCategory.ModifierSymbol, UnicodeCategory.OtherSymbol],
        ["sm"] = [UnicodeCategory.MathSymbol],
        ["sc"] = [UnicodeCategory.CurrencySymbol],
        ["sk"] = [UnicodeCategory.ModifierSymbol],
        ["so"] = [UnicodeCategory.OtherSymbol],
        ["z"] = [UnicodeCategory.SpaceSeparator, UnicodeCategory.LineSeparator, UnicodeCategory.ParagraphSeparator],
        ["zs"] = [UnicodeCategory.SpaceSeparator],
        ["zl"] = [UnicodeCategory.LineSeparator],
        ["zp"] = [UnicodeCategory.ParagraphSeparator],
        ["c"] = [UnicodeCategory.Control, UnicodeCategory.Format, UnicodeCategory.Surrogate, UnicodeCategory.PrivateUse, UnicodeCategory.OtherNotAssigned],
        ["cc"] = [UnicodeCategory.Control],
        ["cf"] = [UnicodeCategory.Format],
        ["cn"] = [UnicodeCategory.OtherNotAssigned],
        ["co"] = [UnicodeCategory.PrivateUse],
        ["cs"] = [UnicodeCategory.Surrogate],
    };

    private static readonly Dictionary<string, string> s_longNames = new(StringComparer.Ordinal)
    {
        ["letter"] = "l",
        ["casedletter"] = "lc",
        ["uppercaseletter"] = "lu",
        ["lowercaseletter"] = "ll",
        ["titlecaseletter"] = "lt",
        ["modifierletter"] = "lm",
        ["otherletter"] = "lo",
        ["mark"] = "m",
        ["combiningmark"] = "m",
        ["nonspacingmark"] = "mn",
        ["spacingmark"] = "mc",
        ["enclosingmark"] = "me",
        ["number"] = "n",
        ["decimalnumber"] = "nd",
        ["letternumber"] = "nl",
        ["othernumber"] = "no",
        ["punctuation"] = "p",
        ["connectorpunctuation"] = "pc",
        ["dashpunctuation"] = "pd",
        ["openpunctuation"] = "ps",
        ["closepunctuation"] = "pe",
        ["initialpunctuation"] = "pi",
        ["finalpunctuation"] = "pf",
        ["otherpunctuation"] = "po",
        ["symbol"] = "s",
        ["mathsymbol"] = "sm",
        ["currencysymbol"] = "sc",
        ["modifiersymbol"] = "sk",
        ["othersymbol"] = "so",
        ["separator"] = "z",
        ["spaceseparator"] = "zs",
        ["lineseparator"] = "zl",
        ["paragraphseparator"] = "zp",
        ["other"] = "c",
        ["control"] = "cc",
        ["format"] = "cf",
        ["unassigned"] = "cn",
        ["privateuse"] = "co",
        ["surrogate"] = "cs",
    };

    /// <summary><c>\w</c>; among the first 256 code points it has the superscript digits and fractions too.</summary>
    public static CodePointSet Word => Cached("\\w", () => CodePointSet.Union([.. Find("word")!.Ranges, (0xB2, 0xB4), (0xB9, 0xBA), (0xBC, 0xBF)]));

    /// <summary><c>\d</c></summary>
    public static CodePointSet Digit => Find("nd")!;

    /// <summary><c>\s</c></summary>
    public static CodePointSet Space => Find("space")!;

    /// <summary><c>\h</c></summary>
    public static CodePointSet HexDigit => Find("xdigit")!;

    /// <summary>A category, script or POSIX class by name, or null.</summary>
    public static CodePointSet? Find(string name)
    {
        var key = new string([.. name.Where(c => c is not (' ' or '-' or '_')).Select(char.ToLowerInvariant)]);
        return s_sets.GetOrAdd(key, Make);
    }

    private static CodePointSet Cached(string key, Func<CodePointSet> make) => s_sets.GetOrAdd(key, _ => make())!;

    private static CodePointSet? Make(string key)
    {
        if (s_groups.TryGetValue(s_longNames.GetValueOrDefault(key, key), out var categories))
        {
            return Categories(categories);
        }

        return key switch
        {
            "any" => new CodePointSet([(0, CodePointSet.End)]),
            "assigned" => Find("cn")!.Complement(),
            "ascii" => new CodePointSet([(0, 0x80)]),
            "alpha" or "alphabetic" => CodePointSet.Union([.. Find("l")!.Ranges, .. Find("nl")!.Ranges, .. Scripts.OtherAlphabeticRanges()]),
            "alnum" => CodePointSet.Union([.. Find("alpha")!.Ranges, .. Find("nd")!.Ranges]),
            "digit" => Find("nd"),
            "space" or "whitespace" => CodePointSet.Where(CharacterClass.IsWhiteSpace),
            "blank" => CodePointSet.Union([.. Find("zs")!.Ranges, ('\t', '\t' + 1)]),
            "cntrl" => Find("cc"),
            "punct" => CodePointSet.Union([.. Find("p")!.Ranges, .. Find("s")!.Ranges]),
            "graph" => CodePointSet.Union([.. Find("z")!.Ranges, .. Find("cc")!.Ranges, .. Find("cn")!.Ranges, .. Find("cs")!.Ranges]).Complement(),
            "print" => CodePointSet.Union([.. Find("graph")!.Ranges, .. Find("zs")!.Ranges]),
            "xdigit" or "asciihexdigit" => new CodePointSet([('0', '9' + 1), ('A', 'F' + 1), ('a', 'f' + 1)]),
            "word" => CodePointSet.Union([.. Find("l")!.Ranges, .. Find("m")!.Ranges, .. Find("nd")!.Ranges, .. Find("nl")!.Ranges, .. Find("pc")!.Ranges,
                (0x24B6, 0x24EA), (0x1F130, 0x1F14A), (0x1F150, 0x1F16A), (0x1F170, 0x1F18A)]),
            "upper" or "uppercase" => CodePointSet.Union([.. Find("lu")!.Ranges, (0x2160, 0x2170), (0x24B6, 0x24D0), (0x1F130, 0x1F14A), (0x1F150, 0x1F16A), (0x1F170, 0x1F18A)]),
            "lower" or "lowercase" => CodePointSet.Union([.. Find("ll")!.Ranges, (0xAA, 0xAB), (0xBA, 0xBB), (0x2B0, 0x2B9), (0x2C0, 0x2C2), (0x2E0, 0x2E5),
                (0x345, 0x346), (0x37A, 0x37B), (0x1D2C, 0x1D6B), (0x1D78, 0x1D79), (0x1D9B, 0x1DC0), (0x2071, 0x2072), (0x207F, 0x2080), (0x2090, 0x209D), (0x2170, 0x2180), (0x24D0, 0x24EA),
                (0x10FC, 0x10FD), (0x2C7C, 0x2C7E), (0xA69C, 0xA69E), (0xA770, 0xA771), (0xA7F2, 0xA7F5), (0xA7F8, 0xA7FA), (0xAB5C, 0xAB60),
                (0xAB69, 0xAB6A), (0x10780, 0x10781), (0x10783, 0x10786), (0x10787, 0x107B1), (0x107B2, 0x107BB), (0x1E030, 0x1E06E)]),
            _ => Scripts.Ranges(key) is { } ranges ? CodePointSet.Union(ranges) : null,
        };
    }

    private static CodePointSet Categories(UnicodeCategory[] categories)
    {
        var all = s_categories.Value;
        var wanted = new bool[32];
        Array.ForEach(categories, category => wanted[(int)category] = true);
        return CodePointSet.Where(codePoint => wanted[all[codePoint]]);
    }
}
