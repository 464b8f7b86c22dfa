using System.Management.Automation;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Pipeline;
using Peft.Tokenization;
using Peft.Tokenization.ChatTemplates;
using Peft.Training.Data;

namespace Peft.Cmdlets.Commands.Text;

/// <summary>ConvertTo-ModelToken: cuts texts into the model's tokens.</summary>
[Cmdlet(VerbsData.ConvertTo, "ModelToken", DefaultParameterSetName = InputSet)]
[OutputType(typeof(ModelToken), typeof(int[]))]
public sealed class ConvertToModelTokenCommand : TextInputCommand
{
    private readonly PerModel<ChatMessage> _messages = new();

    /// <summary>
    /// Texts to cut, or files from Get-ChildItem. Tables or objects with a <c>role</c> and a <c>content</c> are messages of one conversation, which is put
    /// into the model's chat template first.
    /// </summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = InputSet, ValueFromPipeline = true)]
    [AllowEmptyString]
    [ValidateNotNull]
    public PSObject[] Text { get; set; } = [];

    /// <summary>Leaves out the tokens that the tokenizer puts around a text.</summary>
    [Parameter]
    [Alias("NoSpecialTokens")]
    public SwitchParameter NoSpecialToken { get; set; }

    /// <summary>Puts out one array of ids for each text in place of token objects.</summary>
    [Parameter]
    public SwitchParameter IdOnly { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        var tokenizer = Model.RequiredTokenizer;
        Each(Inputs(Text), item =>
        {
            if (TextInput.Message(item) is { } message)
            {
                _messages.Add(Model, message);
                return;
            }

            var given = item.BaseObject is FileInfo ? null : TextInput.Text(item);
            Write(tokenizer, _ => given ?? TextFile.Read(((FileInfo)item.BaseObject).FullName), addSpecialTokens: !NoSpecialToken);
        });
    }

    /// <inheritdoc/>
    protected override void End() => Each(_messages.Groups, conversation =>
    {
        // The template writes the special tokens itself.
        var tokenizer = conversation.Model.RequiredTokenizer;
        Write(tokenizer, cancellation => tokenizer.ApplyChatTemplate(conversation.Items, addGenerationPrompt: true, cancellation), addSpecialTokens: false);
    });

    private void Write(Tokenizer tokenizer, Func<CancellationToken, string> source, bool addSpecialTokens)
    {
        var (text, encoding) = Run(output =>
        {
            var text = source(output.Cancellation);
            return (text, tokenizer.Encode(text, addSpecialTokens));
        });
        if (IdOnly)
        {
            WriteObject(encoding.Ids, enumerateCollection: false);
            return;
        }

        for (var index = 0; index < encoding.Count; index++)
        {
            var (start, end) = encoding.Offsets[index];
            WriteObject(new ModelToken(index, encoding.Ids[index], encoding.Tokens[index], text[start..end], tokenizer.IsSpecial(encoding.Ids[index])));
        }
    }
}

/// <summary>A token of a text.</summary>
/// <param name="Index">Its position, counted from 0.</param>
/// <param name="Id">Its number in the vocabulary.</param>
/// <param name="Token">How the vocabulary writes it.</param>
/// <param name="Text">The part of the text that it stands for.</param>
/// <param name="IsSpecial">Whether it is a mark, such as the end of the text, rather than text.</param>
public sealed record ModelToken(int Index, int Id, string Token, string Text, bool IsSpecial);
