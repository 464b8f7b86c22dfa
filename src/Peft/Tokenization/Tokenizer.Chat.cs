using Peft.Tokenization.ChatTemplates;

namespace Peft.Tokenization;

public sealed partial class Tokenizer
{
    /// <summary>The chat templates, by name where there are several.</summary>
    public ChatTemplateSet ChatTemplates { get; }

    /// <summary>Whether there is a chat template.</summary>
    public bool HasChatTemplate => ChatTemplates.Names.Count > 0;

    /// <summary>Turns a conversation into the text that the model was trained on.</summary>
    /// <param name="messages">The messages.</param>
    /// <param name="addGenerationPrompt">Whether the text ends with the start of an assistant's answer.</param>
    /// <exception cref="TemplateException">There is no template, or it refuses the conversation.</exception>
    public string ApplyChatTemplate(IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt = false) =>
        RenderChat(messages, new ChatTemplateOptions { AddGenerationPrompt = addGenerationPrompt }).Text;

    /// <summary>Turns a conversation into text, and says where in it the assistant speaks.</summary>
    /// <param name="messages">The messages.</param>
    /// <param name="options">What else the template is given.</param>
    /// <exception cref="TemplateException">There is no template, or it refuses the conversation.</exception>
    public ChatRendering RenderChat(IReadOnlyList<ChatMessage> messages, ChatTemplateOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(messages);
        options ??= new ChatTemplateOptions();
        var source = ChatTemplates.Choose(options.Template, options.Tools is not null);
        return ChatTemplate.Parse(source).Render(messages, options, Configuration.SpecialTokens);
    }
}
