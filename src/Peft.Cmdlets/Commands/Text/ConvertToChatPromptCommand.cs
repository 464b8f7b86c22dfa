using System.Management.Automation;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Tokenization.ChatTemplates;
using Peft.Training.Data;

namespace Peft.Cmdlets.Commands.Text;

/// <summary>ConvertTo-ChatPrompt: puts a conversation into the form that the model was trained on.</summary>
[Cmdlet(VerbsData.ConvertTo, "ChatPrompt", DefaultParameterSetName = InputSet)]
[OutputType(typeof(string))]
public sealed class ConvertToChatPromptCommand : TextInputCommand
{
    private readonly PerModel<ChatMessage> _messages = new();

    /// <summary>
    /// The conversation, in order: texts, and files from Get-ChildItem, are the user's; tables or objects have a <c>role</c> and a <c>content</c>, and any
    /// other field that the template knows.
    /// </summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = InputSet, ValueFromPipeline = true)]
    [ValidateNotNull]
    public PSObject[] Message { get; set; } = [];

    /// <summary>The system's message, before all others.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public string? SystemMessage { get; set; }

    /// <summary>Leaves out the start of the assistant's answer at the end.</summary>
    [Parameter]
    public SwitchParameter NoGenerationPrompt { get; set; }

    /// <summary>Ends the text right behind the last message's content, so that the model goes on with it; the start of another answer is left out then.</summary>
    [Parameter]
    [Alias("continue_final_message")]
    public SwitchParameter ContinueFinalMessage { get; set; }

    /// <summary>Which of the tokenizer's chat templates to use, by name.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(ChatTemplateCompleter))]
    [ValidateNotNullOrEmpty]
    public string? Template { get; set; }

    /// <inheritdoc/>
    protected override void Process() => _messages.Add(Model, Inputs(Message).Select(Read).ToList());

    /// <inheritdoc/>
    protected override void End()
    {
        var options = new ChatTemplateOptions { AddGenerationPrompt = !NoGenerationPrompt && !ContinueFinalMessage, ContinueFinalMessage = ContinueFinalMessage, Template = Template, JoinTextParts = true };
        Each(_messages.Groups, conversation =>
        {
            ChatMessage[] whole = SystemMessage is null ? [.. conversation.Items] : [new("system", SystemMessage), .. conversation.Items];
            WriteObject(Run(output => conversation.Model.RequiredTokenizer.RenderChat(whole, options, output.Cancellation).Text));
        });
    }

    private ChatMessage Read(PSObject item)
    {
        if (item.BaseObject is string or FileInfo)
        {
            return new("user", item.BaseObject is FileInfo file ? Run(_ => TextFile.Read(file.FullName)) : (string)item.BaseObject);
        }

        return TextInput.Message(item) ?? throw new PeftException("ChatMessageInvalid", "A message of a conversation needs a role and a content.")
        {
            Target = item,
            RecommendedAction = "Give @{ role = 'user'; content = '…' }, or a text for the user's message.",
        };
    }
}
