using System.Management.Automation;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Hub;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>Save-HubModel: fetches a model or an adapter from the hub into the cache that Python's tools share, or brings it up to date.</summary>
[Cmdlet(VerbsData.Save, "HubModel", SupportsShouldProcess = true)]
[OutputType(typeof(HubSnapshot))]
public sealed class SaveHubModelCommand : PeftCmdlet
{
    /// <summary>Names on the hub, such as <c>HuggingFaceTB/SmolLM2-135M</c>.</summary>
    [Parameter(Mandatory = true, Position = 0, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    [ArgumentCompleter(typeof(HubNameCompleter))]
    [ValidateNotNullOrEmpty]
    [Alias("repo_id", "Name")]
    public string[] HubName { get; set; } = [];

    /// <summary>Branch, tag or commit on the hub.</summary>
    [Parameter(ValueFromPipelineByPropertyName = true)]
    [PSDefaultValue(Value = "main", Help = "main")]
    [ValidateNotNullOrEmpty]
    public string Revision { get; set; } = "main";

    /// <summary>Wildcards of the files to fetch, such as <c>*Q4_K_M.gguf</c>. Without it configuration, tokenizer and weights, in one format.</summary>
    [Parameter]
    [SupportsWildcards]
    [Alias("allow_patterns")]
    [ValidateNotNullOrEmpty]
    public string[] Include { get; set; } = [];

    /// <summary>Wildcards of files to leave out.</summary>
    [Parameter]
    [SupportsWildcards]
    [Alias("ignore_patterns")]
    [ValidateNotNullOrEmpty]
    public string[] Exclude { get; set; } = [];

    /// <inheritdoc/>
    protected override void Process() => Each(HubName, name =>
    {
        var repository = new HubRepository(name, Revision);
        if (ShouldProcess(repository.ToString(), $"Fetch into '{HubCache.Folder}'"))
        {
            WriteObject(Run(output => HubFetch.Run(output, repository, files => HubModelFiles.Match(files, Include, Exclude))));
        }
    });
}
