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

    [Fact]
    public void The_module_registers_the_provider()
    {
        var names = host.Output("[System.Management.Automation.Subsystem.SubsystemManager]::GetSubsystemInfo([System.Management.Automation.Subsystem.SubsystemKind]::FeedbackProvider).Implementations.Name");
        Assert.Contains("Peft", names.Select(static name => (string)name.BaseObject));
    }
}
