using System.Text.Json;

namespace Peft.Tokenization.PostProcessors;

/// <summary>Reads the <c>post_processor</c> part of tokenizer.json.</summary>
internal static class PostProcessorReader
{
    /// <summary>How often a template may name a text; real ones name each once.</summary>
    private const int MostSequences = 16;

    /// <summary>Reads a post-processor.</summary>
    public static PostProcessor Read(JsonFields fields)
    {
        var type = fields.String("type");
        return type switch
        {
            "TemplateProcessing" => Template(fields),
            "BertProcessing" => new BertPostProcessor(Token(fields, "cls"), Token(fields, "sep")),
            "RobertaProcessing" => new RobertaPostProcessor(Token(fields, "cls"), Token(fields, "sep"),
                fields.Boolean("trim_offsets", true), fields.Boolean("add_prefix_space", true)),
            "ByteLevel" => new ByteLevelPostProcessor(fields.Boolean("trim_offsets", true), fields.Boolean("add_prefix_space", true)),
            "Sequence" => new SequencePostProcessor([.. fields.Objects("processors").Select(Read)]),
            _ => throw new NotSupportedByPeftException("TokenizerComponentNotSupported", $"{fields.Path} has the type \"{type}\", which isn't known."),
        };
    }

    private static AddedPart Token(JsonFields fields, string name)
    {
        var path = fields.Path + "." + name;
        return fields.Has(name, out var pair) && pair.ValueKind == JsonValueKind.Array && pair.GetArrayLength() == 2
            && pair[1].ValueKind == JsonValueKind.Number && pair[1].TryGetInt32(out var id)
            ? new AddedPart(id, JsonFields.Text(pair[0], path))
            : throw JsonFields.Wrong(path, "a pair of token and id", pair);
    }

    private static TemplatePostProcessor Template(JsonFields fields)
    {
        var specials = new Dictionary<string, List<AddedPart>>(StringComparer.Ordinal);
        if (fields.OptionalObject("special_tokens") is { } tokens)
        {
            foreach (var entry in tokens.Element.EnumerateObject())
            {
                specials[entry.Name] = Special(new JsonFields(entry.Value, tokens.Path + "." + entry.Name));
            }
        }

        return new TemplatePostProcessor(Parts(fields, "single", specials), Parts(fields, "pair", specials));
    }

    private static List<AddedPart> Special(JsonFields fields)
    {
        var ids = fields.List("ids").ToList();
        var texts = fields.List("tokens").ToList();
        if (ids.Count != texts.Count)
        {
            throw new PeftException("TokenizerFileInvalid", $"{fields.Path} has {ids.Count} ids and {texts.Count} tokens.");
        }

        return [.. ids.Zip(texts, (id, text) => id.ValueKind == JsonValueKind.Number && id.TryGetInt32(out var number)
            ? new AddedPart(number, JsonFields.Text(text, fields.Path + ".tokens"))
            : throw JsonFields.Wrong(fields.Path + ".ids", "a list of token ids", id))];
    }

    private static List<TemplatePart> Parts(JsonFields fields, string name, Dictionary<string, List<AddedPart>> specials)
    {
        var parts = new List<TemplatePart>();
        foreach (var part in fields.Objects(name))
        {
            if (part.OptionalObject("Sequence") is { } sequence)
            {
                parts.Add(new TemplatePart(sequence.String("id") == "A" ? 0 : 1, sequence.Integer("type_id", 0), []));
            }
            else
            {
                var special = part.Object("SpecialToken");
                var id = special.String("id");
                parts.Add(new TemplatePart(null, special.Integer("type_id", 0), specials.TryGetValue(id, out var tokens)
                    ? tokens
                    : throw new PeftException("TokenizerFileInvalid", $"{part.Path} names \"{id}\", which {fields.Path}.special_tokens lacks.")));
            }
        }

        return parts.Count(static part => part.Sequence is not null) <= MostSequences
            ? parts
            : throw new PeftException("TokenizerFileInvalid", $"{fields.Path}.{name} repeats the text more than {MostSequences} times.");
    }
}
