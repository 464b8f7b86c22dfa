using Peft.Tokenization.AddedTokens;
using Peft.Tokenization.LegacyFormats;
using Peft.Tokenization.PostProcessors;

namespace Peft.Tokenization.SentencePiece;

/// <summary>Makes tokenizers of SentencePiece models: as the library alone gives them, or as a tokenizer's class numbers and frames them.</summary>
internal static class SentencePieceReader
{
    /// <summary>SentencePiece's own ids, without begin and end.</summary>
    public static Tokenizer ReadPlain(SentencePieceFile file, string path, TokenizerFiles files) => new(
        new TokenizerPipeline
        {
            Model = new SentencePieceModel(file, path, id => id, prefixOnlyFirst: false),
            AddedTokens = new AddedVocabulary([], null),
        },
        new TokenizerConfiguration { SpecialTokens = Named(file, "") },
        files);

    /// <summary>The tokenizer of a folder.</summary>
    public static Tokenizer Read(SentencePieceFile file, string path, TokenizerConfiguration configuration, TokenizerFiles files)
    {
        var family = (configuration.TokenizerClass ?? "").Replace("TokenizerFast", "", StringComparison.Ordinal).Replace("Tokenizer", "", StringComparison.Ordinal);
        var shifted = family is "XLMRoberta" or "Camembert" or "MBart" or "MBart50";
        configuration = configuration.WithDefaultTokens(Named(file, family));
        var legacy = VocabularyFiles.Flag(configuration, "legacy", otherwise: true);
        var model = new SentencePieceModel(file, path, shifted ? Shifted(file) : id => id, prefixOnlyFirst: !legacy);
        var tokens = Added(file, configuration, family, shifted);
        var numbered = shifted ? Number(tokens, model, file.Pieces.Count + 1) : TokenizerPipeline.Number(tokens, model);
        var added = new AddedVocabulary(numbered, null);
        var (begin, end) = Frame(configuration, family);
        return new Tokenizer(
            new TokenizerPipeline
            {
                Model = model,
                AddedTokens = added,
                PostProcessor = Template(configuration, added, model, begin, end, doubled: family is "XLMRoberta" or "Camembert"),
            },
            configuration,
            files);
    }

    /// <summary>The special tokens that a model's own pieces, or its class, stand for.</summary>
    private static Dictionary<string, string> Named(SentencePieceFile file, string family)
    {
        var named = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var (name, texts) in new[]
        {
            ("bos_token", new[] { "<s>", "<bos>" }), ("eos_token", ["</s>", "<eos>"]), ("pad_token", ["<pad>"]), ("unk_token", ["<unk>"]),
        })
        {
            var found = Array.Find(texts, text => file.Pieces.Any(piece => piece.Text == text && piece.Type is PieceType.Control or PieceType.Unknown));
            if (found is not null)
            {
                named[name] = found;
            }
        }

        if (family is "XLMRoberta" or "Camembert" or "MBart" or "MBart50")
        {
            foreach (var (name, token) in VocabularyFiles.DefaultTokens("RobertaTokenizer", wordPieces: false))
            {
                named.TryAdd(name, token);
            }
        }

        return named;
    }

    /// <summary>XLM-RoBERTa's numbers: its four special tokens first, every other piece one later.</summary>
    private static Func<int, int> Shifted(SentencePieceFile file) => id => file.Pieces[id].Type == PieceType.Unknown ? 3 : file.Pieces[id].Text switch
    {
        "<s>" => 0,
        "<pad>" => 1,
        "</s>" => 2,
        _ => id + 1,
    };

    private static List<AddedToken> Added(SentencePieceFile file, TokenizerConfiguration configuration, string family, bool shifted)
    {
        var tokens = file.Pieces
            .Where(piece => piece.Type is PieceType.Control && piece.Text.Length > 0)
            .Select(piece => new AddedToken { Content = piece.Text, Special = true })
            .ToList();
        if (shifted)
        {
            tokens.AddRange(new[] { "<s>", "<pad>", "</s>", "<unk>" }.Select(text => new AddedToken { Content = text, Special = true }));
        }

        if (family == "T5")
        {
            var count = configuration.Root is { } root ? new JsonFields(root, "tokenizer_config.json").Integer("extra_ids", 100) : 100;
            tokens.AddRange(Enumerable.Range(0, Math.Clamp(count, 0, 10_000)).Reverse().Select(i => new AddedToken { Content = $"<extra_id_{i}>", Special = true }));
        }

        tokens.AddRange(configuration.AddedTokens);
        return tokens;
    }

    /// <summary>Ids of the shifted numbering: the four first ones fixed, new tokens behind the last piece.</summary>
    private static List<AddedToken> Number(List<AddedToken> tokens, SentencePieceModel model, int next)
    {
        var known = new Dictionary<string, int>(StringComparer.Ordinal) { ["<s>"] = 0, ["<pad>"] = 1, ["</s>"] = 2, ["<unk>"] = 3 };
        var result = new List<AddedToken>();
        foreach (var token in tokens)
        {
            if (!known.TryGetValue(token.Content, out var id))
            {
                id = model.TokenId(token.Content) ?? next++;
                known[token.Content] = id;
            }

            result.Add(token with { Id = id });
        }

        return result;
    }

    private static (bool Begin, bool End) Frame(TokenizerConfiguration configuration, string family)
    {
        var (begin, end) = family switch
        {
            "Llama" or "CodeLlama" or "Gemma" => (true, false),
            "T5" or "MT5" or "Pegasus" => (false, true),
            "XLMRoberta" or "Camembert" => (true, true),
            _ => (false, false),
        };
        return (VocabularyFiles.Flag(configuration, "add_bos_token", begin), VocabularyFiles.Flag(configuration, "add_eos_token", end));
    }

    private static TemplatePostProcessor? Template(TokenizerConfiguration configuration, AddedVocabulary added, SentencePieceModel model,
        bool begin, bool end, bool doubled)
    {
        var bos = begin ? Part(configuration.BosToken) : null;
        var eos = end ? Part(configuration.EosToken) : null;
        if (bos is null && eos is null)
        {
            return null;
        }

        return new TemplatePostProcessor([.. Around(0, bos, 0)], doubled
            ? [.. Around(0, bos, 0), Special(eos!.Value, 0), .. Around(1, null, 0)]
            : [.. Around(0, bos, 0), .. Around(1, bos, 1)]);

        AddedPart? Part(string? token) => token is not null && (added.Find(token)?.Id ?? model.TokenId(token)) is { } id ? new AddedPart(id, token) : null;

        IEnumerable<TemplatePart> Around(int sequence, AddedPart? first, int type)
        {
            if (first is { } token)
            {
                yield return Special(token, type);
            }

            yield return new TemplatePart(sequence, type, []);
            if (eos is { } last)
            {
                yield return Special(last, type);
            }
        }

        static TemplatePart Special(AddedPart token, int type) => new(null, type, [token]);
    }
}
