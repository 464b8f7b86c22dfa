using Peft.Feedback;

namespace Peft.Tests.PowerShell;

/// <summary>What an error recommends, as commands.</summary>
public sealed class FeedbackTests(ModuleHost host) : IClassFixture<ModuleHost>
{
    [Theory]
    [InlineData("$m | Export-PeftAdapter out", "Choose another path, or write over it with -Force.", "$m | Export-PeftAdapter out -Force")]
    [InlineData("$m | Export-PeftAdapter out -Force", "Choose another path, or write over it with -Force.", null)]
    [InlineData("Invoke-LoraTraining x", "The model is on the CPU while a GPU lies idle; Import-PeftModel -Device cuda puts it there.", "Import-PeftModel -Device cuda")]
    [InlineData("x", "Give an adapter that was trained here, or that Import-PeftAdapter loads from a training's folder.", "Import-PeftAdapter")]
    [InlineData("x", "Mend or remove the row.", null)]
    public void The_line_is_offered_again_with_the_switch_or_the_command_that_is_named(string line, string action, string? command) =>
        Assert.Equal(command is null ? [] : [command], RecommendedActionFeedback.Commands(line, action));

    [Theory]
    [InlineData("print_trainable_parameters", "print_trainable_parameters")]
    [InlineData("peft.get_peft_model $model $config", "get_peft_model")]
    [InlineData("$data = 'a' | Import-TrainingDataset; $data.merge_and_unload()", "merge_and_unload")]
    [InlineData("('a').merge_and_unload()", null)]
    [InlineData("no_such_function", null)]
    [InlineData("PeftModel.from_pretrained($model, 'x')", "PeftModel")]
    [InlineData("AutoTokenizer.from_pretrained 'x'", "from_pretrained")]
    public void A_function_of_PEFTs_that_is_called_is_known(string line, string? name) =>
        Assert.Equal(name, RecommendedActionFeedback.PythonNameIn(Assert.Single(host.Run(line).Errors)));

    [Fact]
    public void Every_command_that_is_told_for_a_Python_name_exists_and_stands_in_the_documentation()
    {
        var page = File.ReadAllText(Path.Combine(ModuleHost.Root, "docs", "adapters.md"));
        Assert.All(PythonNames.Commands, entry =>
        {
            Assert.Contains($"`{entry.Key}`", page, StringComparison.Ordinal);
            var words = entry.Value.Split(' ');
            var command = Assert.Single(host.Output($"Get-Command {words[0]} -Module Peft"));
            Assert.All(words.Where(static word => word[0] == '-'), word => Assert.NotNull(((System.Management.Automation.CmdletInfo)command.BaseObject).Parameters[word[1..]]));
        });
    }

    [Fact]
    public void The_module_registers_the_provider()
    {
        var names = host.Output("[System.Management.Automation.Subsystem.SubsystemManager]::GetSubsystemInfo([System.Management.Automation.Subsystem.SubsystemKind]::FeedbackProvider).Implementations.Name");
        Assert.Contains("Peft", names.Select(static name => (string)name.BaseObject));
    }
}
