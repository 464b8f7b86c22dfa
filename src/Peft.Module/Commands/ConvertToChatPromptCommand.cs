using System.Collections;
using System.Management.Automation;
using Peft.Module.Completion;
using Peft.Tokenization.ChatTemplates;

namespace Peft.Module.Commands;

/// <summary>ConvertTo-ChatPrompt: puts a conversation into the form that the model was trained on.</summary>
[Cmdlet(VerbsData.ConvertTo, "ChatPrompt")]
[OutputType(typeof(string))]
public sealed class ConvertToChatPromptCommand : ModelCommand
{
    private readonly List<ChatMessage> messages = [];

    /// <summary>
    /// The conversation, in order: texts are the user's, tables or objects have a <c>role</c> and a <c>content</c>.
    /// </summary>
    [Parameter(Mandatory = true, Position = 0, ValueFromPipeline = true)]
    [ValidateNotNull]
    public PSObject[] Message { get; set; } = [];

    /// <summary>The system's message, before all others.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public string? SystemMessage { get; set; }

    /// <summary>Leaves out the start of the assistant's answer at the end.</summary>
    [Parameter]
    public SwitchParameter NoGenerationPrompt { get; set; }

    /// <summary>Which of the tokenizer's chat templates to use, by name.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(ChatTemplateCompleter))]
    [ValidateNotNullOrEmpty]
    public string? Template { get; set; }

    /// <inheritdoc/>
    protected override void Process() => messages.AddRange(Message.Select(Read));

    /// <inheritdoc/>
    protected override void End()
    {
        if (SystemMessage is not null)
        {
            messages.Insert(0, new("system", SystemMessage));
        }

        var options = new ChatTemplateOptions { AddGenerationPrompt = !NoGenerationPrompt, Template = Template };
        WriteObject(TokenizerOf(Model).RenderChat(messages, options).Text);
    }

    private static ChatMessage Read(PSObject message)
    {
        if (message.BaseObject is string text)
        {
            return new("user", text);
        }

        if (message.BaseObject is ChatMessage known)
        {
            return known;
        }

        object? Field(string name) => message.BaseObject is IDictionary table ? table[name] : message.Properties[name]?.Value;
        return Field("role") is { } role && Field("content") is { } content
            ? new(role.ToString()!, content.ToString()!)
            : throw new PeftException("ChatMessageInvalid", "A message of a conversation needs a role and a content.")
            {
                Target = message,
                RecommendedAction = "Give @{ role = 'user'; content = '…' }, or a text for the user's message.",
            };
    }
}
