using System.Management.Automation;

namespace Peft.Module.Commands;

/// <summary>ConvertTo-ModelToken: cuts texts into the model's tokens.</summary>
[Cmdlet(VerbsData.ConvertTo, "ModelToken")]
[OutputType(typeof(ModelToken), typeof(int[]))]
public sealed class ConvertToModelTokenCommand : ModelCommand
{
    /// <summary>Texts to cut.</summary>
    [Parameter(Mandatory = true, Position = 0, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    [AllowEmptyString]
    public string[] Text { get; set; } = [];

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
        var tokenizer = TokenizerOf(Model);
        foreach (var text in Text)
        {
            var encoding = tokenizer.Encode(text, addSpecialTokens: !NoSpecialToken);
            if (IdOnly)
            {
                WriteObject(encoding.Ids, enumerateCollection: false);
                continue;
            }

            for (var index = 0; index < encoding.Count; index++)
            {
                var (start, end) = encoding.Offsets[index];
                WriteObject(new ModelToken(index, encoding.Ids[index], encoding.Tokens[index], text[start..end], tokenizer.IsSpecial(encoding.Ids[index])));
            }
        }
    }
}

/// <summary>ConvertFrom-ModelToken: turns token ids back into text.</summary>
[Cmdlet(VerbsData.ConvertFrom, "ModelToken")]
[OutputType(typeof(string))]
public sealed class ConvertFromModelTokenCommand : ModelCommand
{
    private readonly List<int> ids = [];

    /// <summary>Ids of one text, in order.</summary>
    [Parameter(Mandatory = true, Position = 0, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    public int[] Id { get; set; } = [];

    /// <summary>Keeps special tokens, such as the end of the text, in the text.</summary>
    [Parameter]
    public SwitchParameter ShowSpecialToken { get; set; }

    /// <inheritdoc/>
    protected override void Process() => ids.AddRange(Id);

    /// <inheritdoc/>
    protected override void End() => WriteObject(TokenizerOf(Model).Decode([.. ids], skipSpecialTokens: !ShowSpecialToken));
}

/// <summary>A token of a text.</summary>
/// <param name="Index">Its position, counted from 0.</param>
/// <param name="Id">Its number in the vocabulary.</param>
/// <param name="Token">How the vocabulary writes it.</param>
/// <param name="Text">The part of the text that it stands for.</param>
/// <param name="IsSpecial">Whether it is a mark, such as the end of the text, rather than text.</param>
public sealed record ModelToken(int Index, int Id, string Token, string Text, bool IsSpecial);
