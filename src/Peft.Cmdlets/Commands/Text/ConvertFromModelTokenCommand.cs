using System.Management.Automation;
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
        WriteObject(Run(_ => text.Model.RequiredTokenizer.Decode([.. text.Items], skipSpecialTokens: !ShowSpecialToken))));
}
