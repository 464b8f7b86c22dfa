using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Commands.Model;
using Peft.Cmdlets.Pipeline;

namespace Peft.Cmdlets.Commands.Text;

/// <summary>ConvertFrom-ModelToken: turns token ids back into text.</summary>
[Cmdlet(VerbsData.ConvertFrom, "ModelToken")]
[OutputType(typeof(string))]
public sealed class ConvertFromModelTokenCommand : ModelCommand
{
    private readonly PerModel<int> _ids = new();

    /// <summary>Ids of one text, in order.</summary>
    [Parameter(Mandatory = true, Position = 0, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    public int[] Id { get; set; } = [];

    /// <summary>Keeps special tokens, such as the end of the text, in the text.</summary>
    [Parameter]
    public SwitchParameter ShowSpecialToken { get; set; }

    /// <inheritdoc/>
    protected override void Process() => _ids.Add(Model, Id);

    /// <inheritdoc/>
    protected override void End() => Each(_ids.Groups, text =>
        WriteObject(Run(_ => TextOf(text.Model, [.. text.Items]))));

    private string TextOf(PeftModel model, int[] ids)
    {
        // A model may have more rows of scores than its tokenizer has tokens: those have an id, and no text.
        var tokenizer = model.RequiredTokenizer;
        var size = Math.Max(tokenizer.VocabularySize, (int)Math.Min(int.MaxValue, model.Config.Integer("vocab_size") ?? 0));
        if (Array.Find(ids, id => id < 0 || (id >= size && tokenizer.TokenText(id) is null)) is var id and not 0)
        {
            throw new PeftException("TokenIdOutOfRange", $"Token id {id} is outside the vocabulary of '{model.Name}', which has {size}.")
            {
                Target = id,
                RecommendedAction = "Give ids that ConvertTo-ModelToken or Invoke-TextGeneration gave for this model.",
            };
        }

        return tokenizer.Decode(ids, skipSpecialTokens: !ShowSpecialToken);
    }
}
