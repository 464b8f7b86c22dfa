using System.Text.RegularExpressions;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>Something that a chat template did wrong: a syntax error, an error of its own, or a limit it ran into.</summary>
public sealed class TemplateException : PeftException
{
    /// <summary>Creates an error.</summary>
    /// <param name="message">What was wrong.</param>
    /// <param name="errorId">A stable identifier.</param>
    public TemplateException(string message, string errorId = "ChatTemplateFailed")
        : base(errorId, message)
    {
    }
}

/// <summary>What a template is given besides the messages.</summary>
public sealed record ChatTemplateOptions
{
    /// <summary>Whether the text ends with the start of an assistant's answer.</summary>
    public bool AddGenerationPrompt { get; init; }

    /// <summary>Whether the text is cut right after the last message's content, so that it can be continued.</summary>
    public bool ContinueFinalMessage { get; init; }

    /// <summary>Which field of the last message is continued. Default: <c>content</c>.</summary>
    public string ContinueField { get; init; } = "content";

    /// <summary>
    /// Whether tokens that control the conversation are read as plain text where the messages spell them, as text from strangers should be.
    /// Only <see cref="Tokenizer.EncodeChat"/> can do this.
    /// </summary>
    public bool PlainControlTokens { get; init; }

    /// <summary>
    /// Whether a content that is a list of text parts is handed to a template that reads texts alone as these texts, a line each, and one with
    /// other parts refused. Default: such a template prints the list as Python does.
    /// </summary>
    public bool JoinTextParts { get; init; }

    /// <summary>Tools that the model may call, as a JSON list or a list of dictionaries, or null.</summary>
    public object? Tools { get; init; }

    /// <summary>Documents to answer from, as a JSON list or a list of dictionaries, or null.</summary>
    public object? Documents { get; init; }

    /// <summary>The name of one of several templates, or the text of a template, or null for the default one.</summary>
    public string? Template { get; init; }

    /// <summary>Further variables, such as <c>enable_thinking</c>.</summary>
    public IReadOnlyDictionary<string, object?> Variables { get; init; } = new Dictionary<string, object?>(StringComparer.Ordinal);

    /// <summary>What <c>strftime_now</c> takes for the present. Default: the local time.</summary>
    public DateTime? Now { get; init; }
}

/// <summary>A rendered conversation.</summary>
/// <param name="Text">The text.</param>
/// <param name="GenerationSpans">
/// Where the assistant speaks (the template's <c>generation</c> blocks), as UTF-16 positions in <paramref name="Text"/>; empty where the
/// template doesn't mark it.
/// </param>
public sealed record ChatRendering(string Text, IReadOnlyList<(int Start, int End)> GenerationSpans);

/// <summary>A chat template: the part of Jinja that model folders use, run with bounded time, depth and output and access to nothing.</summary>
public sealed partial class ChatTemplate
{
    private const string ContinueTag = "CONTINUE_FINAL_MESSAGE_TAG ";
    private static readonly string[] s_reasoningFields = ["reasoning_content", "thinking", "reasoning"];
    private readonly BodyStatement _body;
    private readonly bool _readsParts;

    private ChatTemplate(string source, BodyStatement body, IReadOnlyList<string> literals)
    {
        Source = source;
        _body = body;
        Literals = literals;
        _readsParts = TextField().IsMatch(source);
    }

    /// <summary>The template's text.</summary>
    public string Source { get; }

    /// <summary>The texts and string literals of the template.</summary>
    internal IReadOnlyList<string> Literals { get; }

    /// <summary>Reads a template.</summary>
    /// <param name="source">The template's text.</param>
    /// <exception cref="TemplateException">It has a syntax error.</exception>
    public static ChatTemplate Parse(string source)
    {
        ArgumentNullException.ThrowIfNull(source);
        var body = TemplateParser.Parse(source, out var literals);
        return new ChatTemplate(source, body, literals);
    }

    /// <summary>Renders a conversation.</summary>
    /// <param name="messages">The messages.</param>
    /// <param name="options">What else the template is given.</param>
    /// <param name="specialTokens">The tokenizer's named tokens, such as <c>bos_token</c>.</param>
    /// <param name="cancellation">Ends the rendering.</param>
    /// <exception cref="TemplateException">The template fails, refuses the conversation, or runs into a limit.</exception>
    public ChatRendering Render(
        IReadOnlyList<ChatMessage> messages, ChatTemplateOptions options, IReadOnlyDictionary<string, string> specialTokens, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(messages);
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(specialTokens);
        if (messages.Count == 0)
        {
            throw new TemplateException("A chat template needs a conversation with at least one message.");
        }

        if (options.ContinueFinalMessage && options.AddGenerationPrompt)
        {
            throw new TemplateException("A conversation can't both continue its final message and start a new one; choose one of the two.");
        }

        var chat = messages.Select(message => Prepared(message.Fields, options.JoinTextParts && !_readsParts)).ToList();
        var final = options.ContinueFinalMessage ? MarkFinal(chat[^1], options.ContinueField) : null;
        var run = new TemplateRun { Now = options.Now ?? DateTime.Now, Cancellation = cancellation };
        var text = run.Render(_body, Scope(chat, options, specialTokens));
        return new ChatRendering(final is null ? text : CutAfter(text, final), run.GenerationSpans);
    }

    private static TemplateScope Scope(List<TemplateObject> chat, ChatTemplateOptions options, IReadOnlyDictionary<string, string> specialTokens)
    {
        var globals = new TemplateScope(null);
        TemplateGlobals.AddTo(globals);
        var scope = new TemplateScope(globals);
        foreach (var (name, token) in specialTokens)
        {
            scope.Set(name, token);
        }

        foreach (var (name, value) in options.Variables)
        {
            scope.Set(name, TemplateValue.From(value));
        }

        scope.Set("messages", chat.ConvertAll(message => (object?)message));
        scope.Set("tools", TemplateValue.From(options.Tools));
        scope.Set("documents", TemplateValue.From(options.Documents));
        scope.Set("add_generation_prompt", options.AddGenerationPrompt);
        return scope;
    }

    /// <summary>A message without the fields that are none, its reasoning under every name that templates read.</summary>
    private static TemplateObject Prepared(TemplateObject message, bool joinsParts)
    {
        var reasoning = Array.Find(s_reasoningFields, name => message.Get(name) is not null);
        var result = new TemplateObject();
        if (reasoning is not null)
        {
            result.Set("thinking", message.Get(reasoning));
        }

        foreach (var (name, value) in message)
        {
            if (value is not null)
            {
                result.Set(name, name is "content" && joinsParts && value is List<object?> parts ? Joined(parts) : value);
            }
        }

        if (reasoning is not null)
        {
            result.Set("reasoning_content", message.Get(reasoning));
        }

        return result;
    }

    /// <summary>
    /// A content of parts for a template that knows texts alone (it names the parts' field nowhere): their texts, a line each. Printed as it
    /// is it would be Python's spelling of a list.
    /// </summary>
    private static object Joined(List<object?> parts)
    {
        if (parts.Find(static part => part is TemplateObject entry && entry.Get("type") is not (null or "text")) is TemplateObject other)
        {
            throw new TemplateException($"The chat template reads texts alone, and a message has a part of the type '{other.Get("type")}'.", "ChatMessageInvalid");
        }

        string?[] texts = [.. parts.Select(static part => part as string ?? (part as TemplateObject)?.Get("text") as string)];
        return parts.Count > 0 && Array.TrueForAll(texts, static text => text is not null) ? string.Join('\n', texts) : parts;
    }

    [GeneratedRegex("""\.text\b|["']text["']""", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex TextField();

    /// <summary>Marks the end of the final message, so that the rendering can be cut there; returns its text.</summary>
    private string MarkFinal(TemplateObject message, string field)
    {
        var final = message.Get(field) ?? throw new TemplateException($"The final message has no \"{field}\" to continue.");
        var fields = s_reasoningFields.Contains(field)
            ? s_reasoningFields.Where(name => Equals(message.Get(name), final)).ToArray()
            : [field];
        if (!fields.Any(name => Source.Contains(name, StringComparison.Ordinal)))
        {
            throw new TemplateException($"The chat template doesn't read the field \"{field}\", so it can't be continued.");
        }

        if (final is List<object?> parts)
        {
            var at = parts.FindLastIndex(part => part is TemplateObject entry && entry.Get("text") is string);
            if (at < 0)
            {
                throw new TemplateException("The final message has no text to continue.");
            }

            var copy = new TemplateObject();
            foreach (var (name, value) in (TemplateObject)parts[at]!)
            {
                copy.Set(name, value);
            }

            var text = (string)copy.Get("text")!;
            copy.Set("text", text + ContinueTag);
            var list = parts.ToList();
            list[at] = copy;
            message.Set(field, list);
            return text;
        }

        var plain = final as string ?? throw new TemplateException($"The final message's \"{field}\" is no text.");
        foreach (var name in fields)
        {
            message.Set(name, plain + ContinueTag);
        }

        return plain;
    }

    private static string CutAfter(string text, string final)
    {
        var tag = ContinueTag.TrimEnd();
        var at = text.LastIndexOf(tag, StringComparison.Ordinal);
        if (at < 0 || !text.Contains(PythonMethods.Strip(final, null, left: true, right: true), StringComparison.Ordinal))
        {
            throw new TemplateException("The final message doesn't appear in the rendered conversation, so it can't be continued; the template may have dropped a part of it.");
        }

        var whole = string.CompareOrdinal(text, at, ContinueTag, 0, ContinueTag.Length) == 0;
        return whole ? text[..at] : PythonMethods.Strip(text[..at], null, left: false, right: true);
    }
}
