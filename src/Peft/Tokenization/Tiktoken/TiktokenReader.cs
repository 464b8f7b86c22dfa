using Peft.Tokenization.AddedTokens;
using Peft.Tokenization.Decoders;
using Peft.Tokenization.Models;
using Peft.Tokenization.Normalizers;
using Peft.Tokenization.Patterns;
using Peft.Tokenization.PostProcessors;
using Peft.Tokenization.PreTokenizers;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.Tiktoken;

/// <summary>Makes tokenizers of tiktoken's encodings: those of <c>.tiktoken</c> files, and those that models add to in code of their own, none of which runs.</summary>
internal static class TiktokenReader
{
    private const string Extension = ".tiktoken";

    /// <summary>Reads the tokenizer of a folder; null where its files are of another kind.</summary>
    public static Tokenizer? Read(string folder, TokenizerConfiguration configuration, TokenizerFiles files)
    {
        var extends = configuration.Root is not { } root || new JsonFields(root, "tokenizer_config.json").Boolean("add_special_tokens", true);
        if ((configuration.Classes.Select(name => TiktokenEncoding.OfClass(name, extends)).FirstOrDefault(static found => found is not null)) is { } encoding)
        {
            return Make(encoding, TiktokenFile.Read(TiktokenData.Read(encoding.RanksOf!), encoding.RanksOf + Extension), configuration, files);
        }

        return files.Contents.Keys.FirstOrDefault(static name => name.EndsWith(Extension, StringComparison.Ordinal)) is { } file
            ? ReadFile(Path.Combine(folder, file), files.Contents[file], configuration, files)
            : null;
    }

    /// <summary>Reads a <c>.tiktoken</c> file.</summary>
    public static Tokenizer ReadFile(string path, byte[] content, TokenizerConfiguration configuration, TokenizerFiles files)
    {
        var encoding = TiktokenEncoding.OfFile(path) ?? throw new NotSupportedByPeftException(
            "TokenizerFormatNotSupported", $"{path} holds ranks alone; how texts are split, and which tokens are special, is known for {string.Join(", ", TiktokenEncoding.Names)}.")
        {
            Target = path,
            RecommendedAction = "Code that comes with a model is never run: convert the tokenizer to tokenizer.json in Python, and put that beside the model.",
        };
        return Make(encoding, TiktokenFile.Read(content, path), configuration, files);
    }

    private static Tokenizer Make(TiktokenEncoding encoding, Dictionary<string, int> ranks, TokenizerConfiguration configuration, TokenizerFiles files)
    {
        var next = Math.Max(ranks.Values.Max(), encoding.Placed.Select(static token => token.Id).DefaultIfEmpty(0).Max()) + 1;
        foreach (var text in encoding.Further)
        {
            ranks[Spelled(text)] = next++;
        }

        configuration = configuration.WithDefaultTokens(new Dictionary<string, string>(StringComparer.Ordinal) { ["eos_token"] = TiktokenEncoding.EndOfText });
        var tokens = Tokens(encoding, ranks, next, configuration);
        Normalizer? normalizer = encoding.Composes ? new FormNormalizer(compatible: false, compose: true) : null;
        var pipeline = new TokenizerPipeline
        {
            Normalizer = normalizer,
            AddedTokens = new AddedVocabulary(tokens, normalizer),
            PreTokenizer = new SequencePreTokenizer([new MatchSplitter(PatternMatcher.Make(encoding.Pattern, "The encoding's pattern"), SplitBehavior.Isolated), new ByteLevelPreTokenizer(addPrefixSpace: false, usePattern: false)]),
            Model = BytePairModel.OfRanks(ranks),
            PostProcessor = EndAdded(configuration, tokens),
            Decoder = new ByteLevelDecoder(),
        };
        return new Tokenizer(pipeline, configuration, files);
    }

    /// <summary>The encoding's tokens under its own ids, and behind them what the configuration names besides.</summary>
    private static List<AddedToken> Tokens(TiktokenEncoding encoding, Dictionary<string, int> ranks, int next, TokenizerConfiguration configuration)
    {
        var named = configuration.SpecialTokens.Values.ToHashSet(StringComparer.Ordinal);
        List<AddedToken> tokens =
        [
            .. encoding.Placed.Concat(encoding.Behind.Select((text, i) => (Text: text, Id: next + i))).Select(token => new AddedToken
            {
                Id = token.Id,
                Content = token.Text,
                Special = encoding.SkipsAll || named.Contains(token.Text),
            }),
        ];
        next += encoding.Behind.Count;
        var known = tokens.Select(static token => token.Content).ToHashSet(StringComparer.Ordinal);
        foreach (var token in configuration.AddedTokens.Where(token => known.Add(token.Content)))
        {
            tokens.Add(token with { Id = ranks.TryGetValue(Spelled(token.Content), out var rank) ? rank : next++ });
        }

        return tokens;
    }

    /// <summary>What adds the end of the text behind it, where tokenizer_config.json asks for it.</summary>
    private static TemplatePostProcessor? EndAdded(TokenizerConfiguration configuration, List<AddedToken> tokens)
    {
        if (configuration.Root is not { } root || !new JsonFields(root, "tokenizer_config.json").Boolean("add_eos_token", false))
        {
            return null;
        }

        var end = tokens.Find(token => token.Content == configuration.EosToken)!;
        TemplatePart Ended(int type) => new(null, type, [new AddedPart(end.Id, end.Content)]);
        return new TemplatePostProcessor([new(0, 0, []), Ended(0)], [new(0, 0, []), Ended(0), new(1, 1, []), Ended(1)]);
    }

    private static string Spelled(string text)
    {
        var builder = new TextBuilder(text.Length);
        ByteLevelAlphabet.Spell(text, 0, Alignment.Identity, builder);
        return builder.Text();
    }
}
