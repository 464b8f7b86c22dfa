using System.Collections;
using System.Management.Automation;

namespace Peft.Tests.PowerShell;

/// <summary>The module as a whole: what it exports and how its types are found.</summary>
public sealed class ModuleTests(ModuleHost host) : IClassFixture<ModuleHost>
{
    [Fact]
    public void Exports_exactly_what_the_manifest_lists()
    {
        var manifest = (Hashtable)host.Output("Test-ModuleManifest $args[0] | Out-Null; [scriptblock]::Create([IO.File]::ReadAllText($args[0])).InvokeReturnAsIs()", ModuleHost.ManifestPath)[0].BaseObject;
        var exported = host.Output("(Get-Module Peft).ExportedCmdlets.Keys").Select(static name => name.ToString());
        var aliases = host.Output("(Get-Module Peft).ExportedAliases.Keys").Select(static name => name.ToString());

        Assert.Equal(Names(manifest["CmdletsToExport"]), exported.Order(StringComparer.Ordinal));
        Assert.Equal(Names(manifest["AliasesToExport"]), aliases.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Cmdlets_are_exported_again_after_a_second_import()
    {
        var before = host.Output("(Get-Module Peft).ExportedCmdlets.Count")[0].BaseObject;
        var after = host.Output("Import-Module $args[0] -Force; (Get-Module Peft).ExportedCmdlets.Count", ModuleHost.ManifestPath)[0].BaseObject;
        Assert.Equal(before, after);
    }

    [Fact]
    public void Every_verb_is_approved_and_every_cmdlet_states_its_output()
    {
        foreach (var cmdlet in host.Output("(Get-Module Peft).ExportedCmdlets.Values").Select(static item => (CmdletInfo)item.BaseObject))
        {
            Assert.True(s_approvedVerbs.Contains(cmdlet.Verb), cmdlet.Name);
            Assert.True(cmdlet.OutputType.Count > 0 || cmdlet.Parameters.ContainsKey("PassThru") || cmdlet.Verb == "Remove", cmdlet.Name);
        }
    }

    [Fact]
    public void Types_that_cmdlets_take_or_return_resolve_by_name_and_none_is_the_engines()
    {
        var cmdlets = host.Output("(Get-Module Peft).ExportedCmdlets.Values").Select(static item => (CmdletInfo)item.BaseObject).ToList();
        var types = cmdlets
            .SelectMany(static cmdlet => cmdlet.Parameters.Values.Select(static parameter => parameter.ParameterType)
                .Concat(cmdlet.OutputType.Select(static output => output.Type)))
            .Select(static type => Nullable.GetUnderlyingType(type) ?? (type.IsArray ? type.GetElementType()! : type))
            .Distinct()
            .ToList();

        Assert.DoesNotContain(types, static type => type.Namespace?.StartsWith("TorchSharp", StringComparison.Ordinal) == true);
        foreach (var type in types.Where(static type => type.Namespace?.StartsWith("Peft", StringComparison.Ordinal) == true))
        {
            Assert.Same(type, host.Output($"[{type.FullName}]")[0].BaseObject);
            Assert.Equal($"{type.FullName}[]", ((Type)host.Output($"[{type.FullName}[]]")[0].BaseObject).FullName);
        }
    }

    [Fact]
    public void A_proxy_of_every_cmdlet_compiles_as_a_mock_needs()
    {
        var count = host.Output("""
            $count = 0
            foreach ($cmdlet in (Get-Module Peft).ExportedCmdlets.Values) {
                $metadata = [System.Management.Automation.CommandMetadata]::new($cmdlet)
                $proxy = [scriptblock]::Create([System.Management.Automation.ProxyCommand]::Create($metadata))
                ${function:global:Test-Proxy} = $proxy
                $null = (Get-Command Test-Proxy).Parameters
                $count++
            }
            $count
            """)[0].BaseObject;
        Assert.Equal(host.Output("(Get-Module Peft).ExportedCmdlets.Count")[0].BaseObject, count);
    }

    [Fact]
    public void Get_PeftDevice_lists_the_processor()
    {
        var device = Assert.Single(host.Output("Get-PeftDevice"), static device => (string)device.Properties["Name"].Value == "cpu");
        Assert.Equal("CPU", device.Properties["Kind"].Value);
        Assert.True((int)device.Properties["Threads"].Value >= 1);
    }

    private static readonly HashSet<string> s_approvedVerbs =
    [
        .. new[] { typeof(VerbsCommon), typeof(VerbsCommunications), typeof(VerbsData), typeof(VerbsDiagnostic), typeof(VerbsLifecycle), typeof(VerbsOther), typeof(VerbsSecurity) }
            .SelectMany(static type => type.GetFields())
            .Select(static field => (string)field.GetValue(null)!),
    ];

    private static IEnumerable<string> Names(object? list) => ((IEnumerable)list!).Cast<object>().Select(static name => name.ToString()!).Order(StringComparer.Ordinal);
}
