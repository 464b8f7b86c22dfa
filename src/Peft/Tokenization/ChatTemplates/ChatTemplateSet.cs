using System.Text.Json;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>The chat templates of a tokenizer: one, or several by name.</summary>
public sealed class ChatTemplateSet
{
    /// <summary>No template.</summary>
    public static readonly ChatTemplateSet None = new(new Dictionary<string, string>(StringComparer.Ordinal), named: false);

    private readonly Dictionary<string, string> _sources;

    private ChatTemplateSet(Dictionary<string, string> sources, bool named)
    {
        _sources = sources;
        Named = named;
    }

    /// <summary>Whether there are several templates by name.</summary>
    public bool Named { get; }

    /// <summary>The names; <c>default</c> where there is one template only.</summary>
    public IReadOnlyCollection<string> Names => _sources.Keys;

    /// <summary>A template's text by name, or null.</summary>
    public string? Source(string name) => _sources.GetValueOrDefault(name);

    /// <summary>One template.</summary>
    public static ChatTemplateSet Single(string source) => new(new Dictionary<string, string>(StringComparer.Ordinal) { ["default"] = source }, named: false);

    /// <summary>The template to use: the named one, else the one for tools where there are tools, else the default one.</summary>
    /// <param name="name">A name or a template's text, or null.</param>
    /// <param name="tools">Whether tools are given.</param>
    /// <exception cref="TemplateException">There is none.</exception>
    public string Choose(string? name, bool tools)
    {
        if (name is not null)
        {
            return Named && _sources.TryGetValue(name, out var named) ? named : name;
        }

        if (Named && tools && _sources.TryGetValue("tool_use", out var forTools))
        {
            return forTools;
        }

        return _sources.TryGetValue("default", out var source) ? source : throw new TemplateException(
            _sources.Count == 0
                ? "The tokenizer has no chat template, and none was given."
                : $"The tokenizer has several chat templates and none called default; name one of: {string.Join(", ", _sources.Keys.Order(StringComparer.Ordinal))}.",
            "ChatTemplateMissing");
    }

    /// <summary>Finds the templates of a folder: files win over tokenizer_config.json.</summary>
    internal static ChatTemplateSet Read(JsonFields? configuration, IReadOnlyDictionary<string, byte[]> files)
    {
        const string Folder = "additional_chat_templates/";
        var additional = files.Where(file => file.Key.StartsWith(Folder, StringComparison.Ordinal)).ToList();
        if (files.TryGetValue("chat_template.jinja", out var single))
        {
            var sources = new Dictionary<string, string>(StringComparer.Ordinal) { ["default"] = Decode(single) };
            foreach (var (path, bytes) in additional)
            {
                sources[Path.GetFileNameWithoutExtension(path)] = Decode(bytes);
            }

            return new ChatTemplateSet(sources, additional.Count > 0);
        }

        if (configuration is { } fields && fields.Has("chat_template", out var value))
        {
            return value.ValueKind == JsonValueKind.Array ? ReadList(fields) : Single(JsonFields.Text(value, fields.Path + ".chat_template"));
        }

        return None;
    }

    private static ChatTemplateSet ReadList(JsonFields fields)
    {
        var sources = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var entry in fields.Objects("chat_template"))
        {
            sources[entry.String("name")] = entry.String("template");
        }

        return new ChatTemplateSet(sources, named: true);
    }

    private static string Decode(byte[] bytes) => new System.Text.UTF8Encoding(false).GetString(bytes.AsSpan().StartsWith("\uFEFF"u8) ? bytes.AsSpan(3) : bytes);
}
