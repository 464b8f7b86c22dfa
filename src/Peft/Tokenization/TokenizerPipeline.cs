using System.Text.Json;
using Peft.Tokenization.AddedTokens;
using Peft.Tokenization.Decoders;
using Peft.Tokenization.Models;
using Peft.Tokenization.Normalizers;
using Peft.Tokenization.PostProcessors;
using Peft.Tokenization.PreTokenizers;

namespace Peft.Tokenization;

/// <summary>The parts of a tokenizer in the order a text goes through them.</summary>
internal sealed record TokenizerPipeline
{
    public required AddedVocabulary AddedTokens { get; init; }

    public Normalizer? Normalizer { get; init; }

    public PreTokenizer? PreTokenizer { get; init; }

    public required TokenModel Model { get; init; }

    public PostProcessor? PostProcessor { get; init; }

    public Decoder? Decoder { get; init; }

    public Truncation? Truncation { get; init; }

    public Padding? Padding { get; init; }

    /// <summary>The id of a token that is added only where no added token has its text yet.</summary>
    public const int OnlyIfMissing = -2;

    /// <summary>Reads the content of a tokenizer.json.</summary>
    /// <param name="root">Its root.</param>
    /// <param name="path">Its name, for messages.</param>
    /// <param name="more">Added tokens that come from other files; they get ids of their own where the vocabulary lacks them.</param>
    public static TokenizerPipeline Read(JsonElement root, string path, IEnumerable<AddedToken>? more = null)
    {
        var fields = new JsonFields(root, path);
        var normalizer = fields.OptionalObject("normalizer") is { } n ? NormalizerReader.Read(n) : null;
        var model = ModelReader.Read(fields.Object("model"));
        var tokens = new List<AddedToken>();
        foreach (var token in fields.Objects("added_tokens"))
        {
            tokens.Add(ReadAddedToken(token));
        }

        return new TokenizerPipeline
        {
            Normalizer = normalizer,
            Model = model,
            AddedTokens = new AddedVocabulary(Number([.. tokens, .. more ?? []], model), normalizer),
            PreTokenizer = fields.OptionalObject("pre_tokenizer") is { } p ? PreTokenizerReader.Read(p) : null,
            PostProcessor = fields.OptionalObject("post_processor") is { } o ? PostProcessorReader.Read(o) : null,
            Decoder = fields.OptionalObject("decoder") is { } d ? DecoderReader.Read(d) : null,
            Truncation = fields.OptionalObject("truncation") is { } t ? ReadTruncation(t) : null,
            Padding = fields.OptionalObject("padding") is { } a ? ReadPadding(a) : null,
        };
    }

    /// <summary>An entry of <c>added_tokens</c> or <c>added_tokens_decoder</c>.</summary>
    public static AddedToken ReadAddedToken(JsonFields fields)
    {
        var special = fields.Boolean("special", false);
        return new AddedToken
        {
            Id = fields.Integer("id", -1),
            Content = fields.String("content"),
            Special = special,
            SingleWord = fields.Boolean("single_word", false),
            StripLeft = fields.Boolean("lstrip", false),
            StripRight = fields.Boolean("rstrip", false),
            Normalized = fields.Boolean("normalized", !special),
        };
    }

    /// <summary>
    /// Gives every token its id as the tokenizers library does: the vocabulary's where it is there, else the next free one in the order of the file.
    /// </summary>
    public static List<AddedToken> Number(IReadOnlyList<AddedToken> tokens, TokenModel model)
    {
        var known = new Dictionary<string, int>(StringComparer.Ordinal);
        var result = new List<AddedToken>(tokens.Count);
        var next = model.Size;
        foreach (var token in tokens)
        {
            if (token.Content.Length == 0 || (token.Id == OnlyIfMissing && known.ContainsKey(token.Content)))
            {
                continue;
            }

            if (!known.TryGetValue(token.Content, out var id))
            {
                id = model.TokenId(token.Content) ?? next++;
            }

            known[token.Content] = id;
            result.Add(token with { Id = id });
        }

        return result;
    }

    private static Truncation ReadTruncation(JsonFields fields) => new()
    {
        MaximumLength = Positive(fields, "max_length", 512),
        Stride = Positive(fields, "stride", 0),
        Strategy = fields.OptionalString("strategy") switch
        {
            null or "LongestFirst" => TruncationStrategy.LongestFirst,
            "OnlyFirst" => TruncationStrategy.OnlyFirst,
            "OnlySecond" => TruncationStrategy.OnlySecond,
            var other => throw Unknown(fields, "strategy", other),
        },
        Direction = fields.OptionalString("direction") switch
        {
            null or "Right" => TruncationDirection.Right,
            "Left" => TruncationDirection.Left,
            var other => throw Unknown(fields, "direction", other),
        },
    };

    private static Padding ReadPadding(JsonFields fields)
    {
        int? length = null;
        if (fields.Has("strategy", out var strategy) && strategy.ValueKind == JsonValueKind.Object)
        {
            length = Positive(fields.Object("strategy"), "Fixed", 0);
        }

        return new Padding
        {
            Length = length,
            MultipleOf = fields.OptionalInteger("pad_to_multiple_of"),
            Id = fields.Integer("pad_id", 0),
            TypeId = fields.Integer("pad_type_id", 0),
            Token = fields.OptionalString("pad_token") ?? "[PAD]",
            Direction = fields.OptionalString("direction") switch
            {
                null or "Right" => PaddingDirection.Right,
                "Left" => PaddingDirection.Left,
                var other => throw Unknown(fields, "direction", other),
            },
        };
    }

    private static int Positive(JsonFields fields, string name, int otherwise)
    {
        var value = fields.Integer(name, otherwise);
        return value is >= 0 and <= 1 << 28
            ? value
            : throw new PeftException("TokenizerFileInvalid", $"{fields.Path}.{name} is {value}, which is no length.");
    }

    private static PeftException Unknown(JsonFields fields, string name, string value) =>
        new NotSupportedByPeftException("TokenizerComponentNotSupported", $"{fields.Path}.{name} is \"{value}\", which isn't known.");
}
