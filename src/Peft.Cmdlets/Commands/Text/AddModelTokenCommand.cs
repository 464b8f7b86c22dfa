using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Commands.Model;

namespace Peft.Cmdlets.Commands.Text;

/// <summary>Add-ModelToken: gives a model tokens that it hasn't.</summary>
[Cmdlet(VerbsCommon.Add, "ModelToken", SupportsShouldProcess = true)]
[OutputType(typeof(ModelToken))]
public sealed class AddModelTokenCommand : ModelCommand
{
    /// <summary>The texts that become a token each, such as <c>&lt;think&gt;</c>. What is a token already stays as it is.</summary>
    [Parameter(Mandatory = true, Position = 0)]
    [Alias("new_tokens")]
    [ValidateNotNullOrEmpty]
    public string[] Token { get; set; } = [];

    /// <summary>Phrases that say what the tokens mean, one for each or one for all: a token's vectors start as the mean of its phrase's. Without it they start as the mean of all vectors.</summary>
    [Parameter(Position = 1)]
    [ValidateNotNullOrEmpty]
    public string[]? Phrase { get; set; }

    /// <summary>Makes them special tokens: marks that are left out where text is shown, and that a text from strangers can't spell.</summary>
    [Parameter]
    [Alias("special_tokens")]
    public SwitchParameter Special { get; set; }

    /// <inheritdoc/>
    protected override void Begin()
    {
        if (Phrase is { Length: > 1 } && Phrase.Length != Token.Length)
        {
            throw new PeftException("ParametersContradict", $"{Phrase.Length} phrases were given for {Token.Length} tokens.")
            {
                Target = Phrase,
                RecommendedAction = "Give one phrase for all tokens, or one for each.",
            };
        }
    }

    /// <inheritdoc/>
    protected override void Process()
    {
        if (!ShouldProcess(Model.Name, $"Add {(Token.Length == 1 ? $"the token '{Token[0]}'" : $"{Token.Length} tokens")}"))
        {
            return;
        }

        var before = Model.RequiredTokenizer.VocabularySize;
        var ids = Run(_ => Model.AddTokens([.. Token.Select((text, index) => new NewToken(text, Phrase is null ? null : Phrase[Phrase.Length == 1 ? 0 : index], Special))]));
        WriteVerbose($"The vocabulary of '{Model.Name}' has {Model.RequiredTokenizer.VocabularySize - before} tokens more than before.");
        for (var index = 0; index < ids.Count; index++)
        {
            WriteObject(new ModelToken(index, ids[index], Token[index], Token[index], Model.RequiredTokenizer.IsSpecial(ids[index])));
        }
    }
}
