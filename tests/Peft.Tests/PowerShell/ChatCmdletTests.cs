namespace Peft.Tests.PowerShell;

/// <summary>Enter-PeftChat at a host where lines are typed.</summary>
public sealed class ChatCmdletTests : IDisposable
{
    private readonly ScriptedHost _screen = new();
    private readonly ModuleHost _host;

    public ChatCmdletTests()
    {
        _host = new ModuleHost(_screen);
        _host.Output("""
            $global:model = Import-PeftModel $args[0] -DataType float32
            $null = $model | Add-PeftAdapter (New-LoraConfig -TargetModule all-linear -Initialization false) loud -Seed 1
            $null = $model | Disable-PeftAdapter
            """, Path.Combine(ModuleHost.Root, "assets", "pocket-llama"));
    }

    [Fact]
    public void What_was_said_comes_out_as_objects_and_each_answer_knows_what_was_said_before()
    {
        Type("Hello!", "And then?", "/exit", "never read");
        var said = _host.Output("Enter-PeftChat $model -MaxNewTokens 6 -SystemMessage 'Be brief.'");
        Assert.Equal(["user", "assistant", "user", "assistant"], said.Select(static turn => turn.Properties["Role"].Value));
        Assert.Equal("And then?", said[2].Properties["Content"].Value);
        Assert.Single(_screen.Lines);
        var expected = _host.Output("""
            $prompt = @{ role = 'user'; content = 'Hello!' }, @{ role = 'assistant'; content = $args[0] }, @{ role = 'user'; content = 'And then?' } | ConvertTo-ChatPrompt -Model $model -SystemMessage 'Be brief.'
            ($model | Invoke-TextGeneration $prompt -MaxNewTokens 6).Text.Trim()
            """, said[1].Properties["Content"].Value)[0].ToString();
        Assert.Equal(expected, said[3].Properties["Content"].Value);
        Assert.Contains(expected, _screen.Shown, StringComparison.Ordinal);
    }

    [Fact]
    public void Adapters_are_switched_inside_and_the_model_stays_as_it_was()
    {
        Type("Hello!", "/undo", "/adapter loud", "Hello!", "/adapter base", "Hello!", "/adapter nobody", "/nonsense", "/adapter");
        var result = _host.Run("Enter-PeftChat $model -MaxNewTokens 6");
        Assert.Equal(["loud", ""], result.Output.Where(static turn => (string)turn.Properties["Role"].Value == "assistant").Select(static turn => string.Join(' ', (IEnumerable<string>)turn.Properties["Adapters"].Value)));
        Assert.StartsWith("AdapterNotFound,", Assert.Single(result.Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Contains("There is no /nonsense", _screen.Shown, StringComparison.Ordinal);
        Assert.Contains("there are: loud, base", _screen.Shown, StringComparison.Ordinal);
        Assert.False((bool)_host.Output("$model")[0].Properties["AdaptersEnabled"].Value);
    }

    [Fact]
    public void A_conversation_goes_on_from_an_earlier_one()
    {
        Type("Hello!");
        _host.Output("$global:said = Enter-PeftChat $model -MaxNewTokens 3");
        Type("/new", "And then?");
        var all = _host.Output("Enter-PeftChat $model -MaxNewTokens 3 -Message $said");
        Assert.Equal(4, all.Count);
        Assert.Equal("Hello!", all[0].Properties["Content"].Value);
        Assert.Equal("user", _host.Output("$prompt = $said | ConvertTo-ChatPrompt -Model $model; if ($prompt -like '*Hello!*') { 'user' }")[0].BaseObject);
    }

    public void Dispose()
    {
        _host.Run("$model | Remove-PeftModel");
        _host.Dispose();
    }

    private void Type(params string[] lines) => lines.ToList().ForEach(_screen.Lines.Enqueue);
}
