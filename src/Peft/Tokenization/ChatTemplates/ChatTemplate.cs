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
public sealed class ChatTemplate
{
    private ChatTemplate(string source) => Source = source;

    /// <summary>The template's text.</summary>
    public string Source { get; }

    /// <summary>Reads a template.</summary>
    /// <exception cref="TemplateException">It has a syntax error.</exception>
    public static ChatTemplate Parse(string source)
    {
        ArgumentNullException.ThrowIfNull(source);
        return new ChatTemplate(source);
    }

    /// <summary>Renders a conversation.</summary>
    /// <param name="messages">The messages.</param>
    /// <param name="options">What else the template is given.</param>
    /// <param name="specialTokens">The tokenizer's named tokens, such as <c>bos_token</c>.</param>
    public ChatRendering Render(IReadOnlyList<ChatMessage> messages, ChatTemplateOptions options, IReadOnlyDictionary<string, string> specialTokens) =>
        throw new NotSupportedByPeftException("ChatTemplateNotSupported", "Chat templates can't be rendered yet.");
}
