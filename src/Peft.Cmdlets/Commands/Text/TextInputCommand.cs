using System.Management.Automation;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Commands.Model;

namespace Peft.Cmdlets.Commands.Text;

/// <summary>What ConvertTo-ModelToken and ConvertTo-ChatPrompt share: texts, files and messages, from the pipeline or by path.</summary>
public abstract class TextInputCommand : ModelCommand
{
    /// <summary>Name of the parameter set that takes texts, files and messages as objects.</summary>
    protected const string InputSet = "Input";

    private const string PathSet = "Path";
    private const string LiteralSet = "LiteralPath";

    /// <summary>Text files, in the encoding that their bytes tell; wildcards are allowed.</summary>
    [Parameter(Mandatory = true, ParameterSetName = PathSet)]
    [SupportsWildcards]
    [ValidateNotNullOrEmpty]
    public string[] Path { get; set; } = [];

    /// <summary>Text files, taken as they are written.</summary>
    [Parameter(Mandatory = true, ParameterSetName = LiteralSet)]
    [Alias("PSPath", "LP")]
    [ValidateNotNullOrEmpty]
    public string[] LiteralPath { get; set; } = [];

    /// <summary>The objects of the current input, files among them, whichever way they were given.</summary>
    /// <param name="objects">What the parameter for objects holds.</param>
    private protected IEnumerable<PSObject> Inputs(PSObject[] objects) => ParameterSetName switch
    {
        PathSet => Path.SelectMany(path => PathResolution.Resolve(this, path)).Select(static path => new PSObject(new FileInfo(path))),
        LiteralSet => LiteralPath.Select(path => new PSObject(new FileInfo(PathResolution.ResolveLiteral(this, path)))),
        _ => objects,
    };
}
