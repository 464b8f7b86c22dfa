using System.Management.Automation;
using Peft.Training.Optimizers;
using Peft.Training.Schedules;

namespace Peft.Tests.PowerShell;

/// <summary>
/// The pages under docs/commands and the file that Get-Help reads agree with the cmdlets. To write their generated parts again after a
/// change, run these tests with PEFT_UPDATE_HELP=1.
/// </summary>
public sealed class HelpTests(ModuleHost host) : IClassFixture<ModuleHost>
{
    private static readonly string s_pages = Path.Combine(ModuleHost.Root, "docs", "commands");
    private static readonly string s_file = Path.Combine(ModuleHost.Root, "src", "Peft.Cmdlets", "Help", "en-US", "Peft.Cmdlets.dll-Help.xml");
    private static readonly string s_topics = Path.Combine(ModuleHost.Root, "src", "Peft.Cmdlets", "Help", "en-US");
    private static readonly bool s_updates = Environment.GetEnvironmentVariable("PEFT_UPDATE_HELP") is "1";

    [Fact]
    public void Pages_and_help_file_agree_with_the_cmdlets()
    {
        var entries = new List<(CmdletHelp, HelpPage)>();
        foreach (var cmdlet in Cmdlets())
        {
            var path = Path.Combine(s_pages, cmdlet.Name + ".md");
            Assert.True(System.IO.File.Exists(path), $"There is no page docs/commands/{cmdlet.Name}.md.");
            var text = System.IO.File.ReadAllText(path).ReplaceLineEndings("\n");
            var page = HelpPage.Parse(text);
            var help = new CmdletHelp(cmdlet);
            page["Syntax"] = help.SyntaxSection();
            page["Parameters"] = help.ParametersSection();
            Agree(path, page.ToString());
            entries.Add((help, page));
        }

        Agree(s_file, HelpFile.Write(entries));
    }

    [Fact]
    public void Every_page_belongs_to_a_cmdlet_and_has_all_a_reader_needs()
    {
        var cmdlets = Cmdlets().ToDictionary(static cmdlet => cmdlet.Name);
        foreach (var path in Directory.GetFiles(s_pages, "*-*.md"))
        {
            var page = HelpPage.Parse(System.IO.File.ReadAllText(path));
            Assert.True(cmdlets.TryGetValue(page.Name, out var cmdlet), path);
            Assert.Equal(Path.GetFileNameWithoutExtension(path), page.Name);
            Assert.True(page.Synopsis.EndsWith('.'), $"{page.Name}: the synopsis is a sentence.");
            Assert.True(page["Description"].Length > 0, $"{page.Name}: no description.");
            Assert.True(page.Examples().Any(), $"{page.Name}: no example.");
            Assert.All(page.Related, name => Assert.True(cmdlets.ContainsKey(name) || System.IO.File.Exists(Path.Combine(s_topics, name + ".help.txt")), $"{page.Name}: there is no {name}."));
            Assert.All(page.Examples(), example => Assert.Contains(page.Name, example.Code, StringComparison.OrdinalIgnoreCase));
            Assert.All(new CmdletHelp(cmdlet).Parameters, parameter => Assert.True(parameter.Comment().Length > 0, $"{page.Name} -{parameter.Info.Name}: no comment."));
        }
    }

    [Fact]
    public void Get_Help_shows_synopsis_parameters_defaults_and_examples_of_every_cmdlet()
    {
        foreach (var cmdlet in Cmdlets())
        {
            var help = host.Output($"Get-Help {cmdlet.Name} -Full")[0];
            var page = HelpPage.Parse(System.IO.File.ReadAllText(Path.Combine(s_pages, cmdlet.Name + ".md")));
            Assert.Equal(page.Synopsis.Replace("`", "", StringComparison.Ordinal), help.Properties["Synopsis"].Value.ToString());
            var shown = host.Output("foreach ($entry in $args[0].parameters.parameter) { , @($entry.name, $entry.description.Text, $entry.defaultValue) }", help)
                .Select(static item => (object[])item.BaseObject)
                .ToDictionary(static row => row[0].ToString()!);
            foreach (var parameter in new CmdletHelp(cmdlet).Parameters)
            {
                var row = shown[parameter.Info.Name];
                Assert.Equal(parameter.Comment(), row[1].ToString());
                Assert.Equal(parameter.Default.Length > 0 ? parameter.Default : "None", row[2].ToString());
            }

            Assert.Equal(page.Examples().Count(), host.Output("$args[0].examples.example", help).Count);
            Assert.Equal(page.Related, host.Output("$args[0].relatedLinks.navigationLink.linkText", help).Select(static link => link.ToString()));
        }
    }

    [Fact]
    public void Every_schedule_and_optimiser_is_explained_where_trainings_are()
    {
        var topic = System.IO.File.ReadAllText(Path.Combine(s_topics, "about_Peft_Training.help.txt"));
        Assert.All(ScheduleRegistry.Names.Concat(OptimizerRegistry.Names), name => Assert.Contains($"\n    {name}\n        ", topic, StringComparison.Ordinal));
    }

    public static TheoryData<string> Topics => [.. Directory.GetFiles(s_topics, "*.help.txt").Select(static path => Path.GetFileName(path)[..^".help.txt".Length])];

    [Theory]
    [MemberData(nameof(Topics))]
    public void Get_Help_shows_a_topic(string name)
    {
        var topic = host.Output($"Get-Help {name}")[0].ToString();
        Assert.Contains("SHORT DESCRIPTION", topic, StringComparison.Ordinal);
        Assert.All(topic.Split('\n'), static line => Assert.True(line.TrimEnd().Length <= 80, line));
        var named = System.Text.RegularExpressions.Regex.Matches(topic, @"\b[A-Z][a-z]+-[A-Z]\w+").Select(static match => match.Value).Distinct();
        Assert.All(named.Except(["Get-Command", "Get-Help", "Get-Error", "Get-Content", "Import-Csv", "Import-Module"]), name => Assert.Single(host.Output($"Get-Command {name} -Module Peft")));
    }

    // Parameters that a configuration's fields make are known to Get-Command alone, while it runs.
    private IReadOnlyList<CmdletInfo> Cmdlets() =>
        [.. host.Output("Get-Command -Module Peft -CommandType Cmdlet | ForEach-Object { $null = $_.ParameterSets; $_ }").Select(static item => (CmdletInfo)item.BaseObject).OrderBy(static cmdlet => cmdlet.Name, StringComparer.Ordinal)];

    private static void Agree(string path, string expected)
    {
        if (s_updates)
        {
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            System.IO.File.WriteAllText(path, expected);
        }

        Assert.True(
            System.IO.File.Exists(path) && System.IO.File.ReadAllText(path).ReplaceLineEndings("\n") == expected,
            $"{Path.GetFileName(path)} is out of date: run the tests of HelpTests with PEFT_UPDATE_HELP=1 and build again.");
    }
}
