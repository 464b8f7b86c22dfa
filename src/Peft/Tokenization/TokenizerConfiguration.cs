using System.Text.Json;
using Peft.Tokenization.AddedTokens;
using Peft.Tokenization.ChatTemplates;

namespace Peft.Tokenization;

/// <summary>What <c>tokenizer_config.json</c> and <c>special_tokens_map.json</c> say.</summary>
public sealed record TokenizerConfiguration
{
    /// <summary>The names of the special tokens that have a name of their own.</summary>
    internal static readonly string[] TokenNames =
        ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

    /// <summary>transformers' class, such as <c>LlamaTokenizer</c>, or null.</summary>
    public string? TokenizerClass { get; init; }

    /// <summary>The special tokens by name (<c>bos_token</c>, <c>eos_token</c>, <c>unk_token</c>, <c>sep_token</c>, ...).</summary>
    public IReadOnlyDictionary<string, string> SpecialTokens { get; init; } = new Dictionary<string, string>(StringComparer.Ordinal);

    /// <summary>The token that starts a text, or null.</summary>
    public string? BosToken => SpecialTokens.GetValueOrDefault("bos_token");

    /// <summary>The token that ends a text, or null.</summary>
    public string? EosToken => SpecialTokens.GetValueOrDefault("eos_token");

    /// <summary>The token that fills batches, or null.</summary>
    public string? PadToken => SpecialTokens.GetValueOrDefault("pad_token");

    /// <summary>The token that stands for one to fill in, or null.</summary>
    public string? MaskToken => SpecialTokens.GetValueOrDefault("mask_token");

    /// <summary>The token for what the vocabulary lacks, or null.</summary>
    public string? UnkToken => SpecialTokens.GetValueOrDefault("unk_token");

    /// <summary>The longest text the model was made for, in tokens, or null where nobody says.</summary>
    public int? ModelMaximumLength { get; init; }

    /// <summary>On which side batches are padded. Default: right.</summary>
    public PaddingDirection PaddingSide { get; init; }

    /// <summary>On which side texts are cut. Default: right.</summary>
    public TruncationDirection TruncationSide { get; init; }

    /// <summary>Whether decoding takes spaces before punctuation out (<c>clean_up_tokenization_spaces</c>). Default: false.</summary>
    public bool CleanUpSpaces { get; init; }

    /// <summary>The chat templates, by name where there are several.</summary>
    public ChatTemplateSet ChatTemplates { get; init; } = ChatTemplateSet.None;

    /// <summary>Tokens that the configuration adds to the vocabulary.</summary>
    internal IReadOnlyList<AddedToken> AddedTokens { get; init; } = [];

    /// <summary>The tokenizer's classes as the configuration names them: transformers' and, of a model with code of its own, that code's.</summary>
    internal IReadOnlyList<string> Classes { get; init; } = [];

    /// <summary>The root of tokenizer_config.json, where there is one.</summary>
    internal JsonElement? Root { get; init; }

    /// <summary>The same with the tokens that it doesn't name itself.</summary>
    internal TokenizerConfiguration WithDefaultTokens(IReadOnlyDictionary<string, string> defaults)
    {
        var tokens = new Dictionary<string, string>(SpecialTokens, StringComparer.Ordinal);
        var added = AddedTokens.ToList();
        foreach (var (name, token) in defaults)
        {
            if (tokens.TryAdd(name, token))
            {
                added.Add(new AddedToken { Content = token, Special = true, Id = TokenizerPipeline.OnlyIfMissing });
            }
        }

        return this with { SpecialTokens = tokens, AddedTokens = added };
    }
}
