using System.Collections.Concurrent;
using Peft.Tokenization.ChatTemplates;

namespace Peft.Tokenization;

/// <summary>A conversation as token ids.</summary>
/// <param name="Ids">The ids.</param>
/// <param name="AssistantMask">1 for the tokens that the assistant says (the template's <c>generation</c> blocks), 0 for the others.</param>
/// <param name="Rendering">The text that the ids were made of.</param>
public sealed record ChatEncoding(int[] Ids, int[] AssistantMask, ChatRendering Rendering);

public sealed partial class Tokenizer
{
    private const char MarkStart = '\uFDD0';
    private const char MarkEnd = '\uFDD1';
    private readonly ConcurrentDictionary<string, ChatTemplate> _templates = new(StringComparer.Ordinal);

    /// <summary>The chat templates, by name where there are several.</summary>
    public ChatTemplateSet ChatTemplates { get; }

    /// <summary>Whether there is a chat template.</summary>
    public bool HasChatTemplate => ChatTemplates.Names.Count > 0;

    /// <summary>Turns a conversation into the text that the model was trained on.</summary>
    /// <param name="messages">The messages.</param>
    /// <param name="addGenerationPrompt">Whether the text ends with the start of an assistant's answer.</param>
    /// <param name="cancellation">Ends the rendering.</param>
    /// <exception cref="TemplateException">There is no template, or it refuses the conversation.</exception>
    public string ApplyChatTemplate(IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt = false, CancellationToken cancellation = default) =>
        RenderChat(messages, new ChatTemplateOptions { AddGenerationPrompt = addGenerationPrompt, JoinTextParts = true }, cancellation).Text;

    /// <summary>Turns a conversation into text, and says where in it the assistant speaks.</summary>
    /// <param name="messages">The messages.</param>
    /// <param name="options">What else the template is given.</param>
    /// <param name="cancellation">Ends the rendering.</param>
    /// <exception cref="TemplateException">There is no template, or it refuses the conversation.</exception>
    public ChatRendering RenderChat(IReadOnlyList<ChatMessage> messages, ChatTemplateOptions? options = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(messages);
        options ??= new ChatTemplateOptions();
        return Template(options).Render(messages, options, Configuration.SpecialTokens, cancellation);
    }

    /// <summary>Turns a conversation into token ids, and says which of them the assistant speaks. No special tokens are added.</summary>
    /// <param name="messages">The messages.</param>
    /// <param name="options">What else the template is given.</param>
    /// <exception cref="TemplateException">There is no template, or it refuses the conversation.</exception>
    public ChatEncoding EncodeChat(IReadOnlyList<ChatMessage> messages, ChatTemplateOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(messages);
        options ??= new ChatTemplateOptions();
        if (options.PlainControlTokens)
        {
            return EncodeMarked(messages, options);
        }

        var rendering = RenderChat(messages, options);
        var encoding = Encode(rendering.Text, addSpecialTokens: false);
        return new ChatEncoding(encoding.Ids, AssistantMask(encoding, rendering.GenerationSpans), rendering);
    }

    private ChatTemplate Template(ChatTemplateOptions options)
    {
        var source = ChatTemplates.Choose(options.Template, options.Tools is not null);
        return _templates.GetOrAdd(source, ChatTemplate.Parse);
    }

    /// <summary>
    /// From the token that holds a span's first character to the one that holds its last; to the end where that was cut off. Where the first
    /// was cut off, nothing follows.
    /// </summary>
    private static int[] AssistantMask(TokenEncoding encoding, IReadOnlyList<(int Start, int End)> spans)
    {
        var mask = new int[encoding.Count];
        var tokens = FirstTokens(encoding);
        foreach (var (start, end) in spans)
        {
            var first = TokenAt(start);
            if (first < 0)
            {
                break;
            }

            var last = TokenAt(end - 1);
            for (var i = first; i < (last > 0 ? last + 1 : mask.Length); i++)
            {
                mask[i] = 1;
            }
        }

        return mask;

        int TokenAt(int position) => position >= 0 && position < tokens.Length ? tokens[position] : -1;
    }

    /// <summary>The first token over each character, or -1.</summary>
    private static int[] FirstTokens(TokenEncoding encoding)
    {
        var tokens = new int[encoding.Offsets.Length == 0 ? 0 : encoding.Offsets.Max(static offset => offset.End)];
        Array.Fill(tokens, -1);
        for (var i = encoding.Count - 1; i >= 0; i--)
        {
            var (start, end) = encoding.Offsets[i];
            tokens.AsSpan(start, Math.Max(0, end - start)).Fill(i);
        }

        return tokens;
    }

    /// <summary>
    /// Marks control tokens in what was handed in before rendering, so that they can be told from the template's own and encoded as text.
    /// </summary>
    private ChatEncoding EncodeMarked(IReadOnlyList<ChatMessage> messages, ChatTemplateOptions options)
    {
        var template = Template(options);
        var control = AddedTokens
            .Where(token => token.Special || (!string.IsNullOrWhiteSpace(token.Content) && template.Literals.Any(text => text.Contains(token.Content, StringComparison.Ordinal))))
            .Select(token => token.Content)
            .OrderByDescending(content => content.Length)
            .ToList();
        var marked = messages.Select(message => message.Map(text => Mark(text, control))).ToList();
        var rendering = template.Render(marked, options with
        {
            Tools = TemplateValue.Map(TemplateValue.From(options.Tools), text => Mark(text, control)),
            Documents = TemplateValue.Map(TemplateValue.From(options.Documents), text => Mark(text, control)),
        }, Configuration.SpecialTokens);
        var ids = new List<int>();
        var newline = EncodeIds("\n", addSpecialTokens: false);
        var first = true;
        foreach (var (text, plain) in Pieces(rendering.Text, control))
        {
            ids.AddRange(first ? EncodeIds(text, addSpecialTokens: false) : EncodePiece(text, plain, newline));
            first = false;
        }

        var unmarked = new ChatRendering(rendering.Text.Replace(MarkStart.ToString(), "", StringComparison.Ordinal)
            .Replace(MarkEnd.ToString(), "", StringComparison.Ordinal), []);
        return new ChatEncoding([.. ids], new int[ids.Count], unmarked);
    }

    private static string Mark(string text, List<string> control)
    {
        text = text.Replace(MarkStart.ToString(), "", StringComparison.Ordinal).Replace(MarkEnd.ToString(), "", StringComparison.Ordinal);
        var builder = new System.Text.StringBuilder();
        for (var i = 0; i < text.Length;)
        {
            var found = control.Find(token => string.CompareOrdinal(text, i, token, 0, token.Length) == 0);
            builder.Append(found is null ? text[i].ToString() : MarkStart + found + MarkEnd);
            i += found?.Length ?? 1;
        }

        return builder.ToString();
    }

    /// <summary>Cuts at marks: stretches of text, and marked tokens, which are plain text. Lone marks only cut.</summary>
    private static IEnumerable<(string Text, bool Plain)> Pieces(string text, List<string> control)
    {
        var start = 0;
        for (var i = 0; i < text.Length; i++)
        {
            if (text[i] is not (MarkStart or MarkEnd))
            {
                continue;
            }

            yield return (text[start..i], false);
            var token = text[i] == MarkStart ? control.Find(candidate => string.CompareOrdinal(text, i + 1, candidate + MarkEnd, 0, candidate.Length + 1) == 0) : null;
            if (token is not null)
            {
                yield return (token, true);
                i += token.Length + 1;
            }

            start = i + 1;
        }

        yield return (text[start..], false);
    }

    /// <summary>Encodes a piece from the middle of a text: after a newline, so that nothing is put in front of it.</summary>
    private int[] EncodePiece(string piece, bool plain, int[] newline)
    {
        if (piece.Length == 0)
        {
            return [];
        }

        var ids = Encode("\n" + piece);
        var result = ids.AsSpan().StartsWith(newline) ? ids[newline.Length..] : Encode(piece);
        return plain && TokenId(piece) is { } id && result.Contains(id)
            ? throw new PeftException("ControlTokenNotPlain", $"The tokenizer makes the token {piece} of plain text, so it can't be told from a control token.")
            : result;

        int[] Encode(string text) => plain ? EncodePlain(text) : EncodeIds(text, addSpecialTokens: false);
    }
}
