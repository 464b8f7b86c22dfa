using System.Text.Json;
using Peft.Tokenization.AddedTokens;
using Peft.Tokenization.ChatTemplates;

namespace Peft.Tokenization;

/// <summary>Reads tokenizer_config.json, special_tokens_map.json, added_tokens.json and the chat templates.</summary>
internal static class ConfigurationReader
{
    /// <summary>The keys of special tokens without a name of the library's own: of its releases before 5, and since.</summary>
    private static readonly string[] s_furtherTokens = ["additional_special_tokens", "extra_special_tokens"];

    /// <summary>Reads what of these files is there.</summary>
    public static TokenizerConfiguration Read(string folder, IReadOnlyDictionary<string, byte[]> files)
    {
        var configuration = Parse(folder, files, "tokenizer_config.json");
        var map = Parse(folder, files, "special_tokens_map.json");
        var tokens = new Dictionary<string, string>(StringComparer.Ordinal);
        var added = new List<AddedToken>();
        if (Parse(folder, files, "added_tokens.json") is { } list)
        {
            added.AddRange(list.Element.EnumerateObject()
                .Where(entry => entry.Value.ValueKind == JsonValueKind.Number)
                .OrderBy(entry => entry.Value.TryGetInt64(out var id) ? id : throw JsonFields.Wrong($"{list.Path}.{entry.Name}", "a whole number", entry.Value))
                .Select(entry => new AddedToken { Content = entry.Name, Normalized = true }));
        }

        var listed = added.Count;

        if (configuration?.OptionalObject("added_tokens_decoder") is { } decoder)
        {
            var entries = decoder.Element.EnumerateObject()
                .Select(entry => (Id: int.TryParse(entry.Name, System.Globalization.NumberStyles.None, System.Globalization.CultureInfo.InvariantCulture, out var id) ? id : int.MaxValue, entry.Value))
                .OrderBy(entry => entry.Id);
            added.AddRange(entries.Select(entry => TokenizerPipeline.ReadAddedToken(new JsonFields(entry.Value, $"{decoder.Path}.{entry.Id}"))));
        }

        foreach (var fields in new[] { map, configuration })
        {
            foreach (var name in TokenizerConfiguration.TokenNames)
            {
                if (fields is { } source && source.Has(name, out var value))
                {
                    tokens[name] = AddSpecial(name, value, source.Path, added);
                }
            }

            foreach (var name in s_furtherTokens)
            {
                if (fields is { } source && source.Has(name, out var value))
                {
                    AddFurther(name, value, source.Path, added);
                }
            }
        }

        for (var i = 0; i < listed; i++)
        {
            // added_tokens.json says nothing of flags; a token with a name of its own is a special one.
            added[i] = tokens.ContainsValue(added[i].Content) ? added[i] with { Special = true, Normalized = false } : added[i];
        }

        return new TokenizerConfiguration
        {
            TokenizerClass = configuration?.OptionalString("tokenizer_class"),
            SpecialTokens = tokens,
            AddedTokens = added,
            ModelMaximumLength = MaximumLength(configuration),
            PaddingSide = PaddingSide(configuration),
            TruncationSide = configuration?.OptionalString("truncation_side") == "left" ? TruncationDirection.Left : TruncationDirection.Right,
            CleanUpSpaces = configuration?.Boolean("clean_up_tokenization_spaces", false) ?? false,
            ChatTemplates = ChatTemplateSet.Read(configuration, files),
            Classes = [.. Classes(configuration)],
            Root = configuration?.Element.Clone(),
        };
    }

    /// <summary>The class, and what <c>auto_map</c> names of a model's own code (<c>module.Class</c>, or a list of a slow and a fast one).</summary>
    private static IEnumerable<string> Classes(JsonFields? configuration)
    {
        if (configuration?.OptionalString("tokenizer_class") is { } name)
        {
            yield return name;
        }

        if (configuration?.OptionalObject("auto_map") is { } map && map.Has("AutoTokenizer", out var entry))
        {
            foreach (var code in (entry.ValueKind == JsonValueKind.Array ? entry.EnumerateArray().AsEnumerable() : [entry]).Where(static code => code.ValueKind == JsonValueKind.String))
            {
                yield return code.GetString()!.Split('.')[^1];
            }
        }
    }

    private static JsonFields? Parse(string folder, IReadOnlyDictionary<string, byte[]> files, string name)
    {
        if (!files.TryGetValue(name, out var bytes))
        {
            return null;
        }

        var path = Path.Combine(folder, name);
        using var document = JsonFields.Parse(bytes, path);
        return new JsonFields(document.RootElement.Clone(), path);
    }

    /// <summary>Special tokens without a name of the library's own: a list of them, or a table by the name that the model's own code has for each.</summary>
    private static void AddFurther(string name, JsonElement value, string path, List<AddedToken> added)
    {
        var tokens = value.ValueKind switch
        {
            JsonValueKind.Array => value.EnumerateArray().AsEnumerable(),
            JsonValueKind.Object => value.EnumerateObject().Select(static entry => entry.Value),
            _ => throw JsonFields.Wrong($"{path}.{name}", "a list of tokens or a table of them", value),
        };
        foreach (var token in tokens)
        {
            AddSpecial(name, token, path, added);
        }
    }

    /// <summary>A special token, given as text or as an added token with its flags; it joins the vocabulary where it isn't there.</summary>
    private static string AddSpecial(string name, JsonElement value, string path, List<AddedToken> added)
    {
        var token = value.ValueKind == JsonValueKind.Object
            ? TokenizerPipeline.ReadAddedToken(new JsonFields(value, path + "." + name)) with { Special = true, Id = TokenizerPipeline.OnlyIfMissing }
            : new AddedToken { Content = JsonFields.Text(value, path + "." + name), Special = true, Id = TokenizerPipeline.OnlyIfMissing };
        if (!added.Exists(other => other.Content == token.Content))
        {
            added.Add(token);
        }

        return token.Content;
    }

    /// <summary>The padding side; transformers' Llama class pads on the left where nobody says otherwise.</summary>
    private static PaddingDirection PaddingSide(JsonFields? configuration)
    {
        var side = configuration?.OptionalString("padding_side")
            ?? (configuration?.OptionalString("tokenizer_class") is "LlamaTokenizer" or "LlamaTokenizerFast" ? "left" : "right");
        return side == "left" ? PaddingDirection.Left : PaddingDirection.Right;
    }

    /// <summary>The model's maximum length; the tokenizers library writes 1e30 where there is none.</summary>
    private static int? MaximumLength(JsonFields? configuration)
    {
        var length = configuration?.Number("model_max_length", double.MaxValue) ?? double.MaxValue;
        return length is >= 1 and <= int.MaxValue ? (int)length : null;
    }
}
