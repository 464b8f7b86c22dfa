using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;

namespace Peft.Tests.PowerShell;

/// <summary>Cmdlets that list, switch and talk to a model, by what they do to its answers.</summary>
public sealed class SwitchingCmdletTests : IClassFixture<ModuleHost>, IDisposable
{
    private const string Answer = "($args[0] | Invoke-TextGeneration 'Once upon a' -MaxNewTokens 8).Text";

    private readonly ModuleHost _host;
    private readonly object _model;

    public SwitchingCmdletTests(ModuleHost host)
    {
        _host = host;
        _model = host.Output("Import-PeftModel $args[0] -DataType float32", Path.Combine(ModuleHost.Root, "assets", "pocket-llama"))[0];
    }

    [Fact]
    public void Disabling_lets_the_base_speak_and_enabling_gives_the_adapters_back()
    {
        var plain = _host.Output(Answer, _model)[0].BaseObject;
        _host.Output("$args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule all-linear -Rank 8 -Alpha 64 -Initialization false) a -Seed 1", _model);
        var adapted = _host.Output(Answer, _model)[0].BaseObject;
        Assert.NotEqual(plain, adapted);

        Assert.Same(((System.Management.Automation.PSObject)_model).BaseObject, _host.Output("$args[0] | Disable-PeftAdapter -PassThru", _model)[0].BaseObject);
        Assert.Equal(plain, _host.Output(Answer, _model)[0].BaseObject);
        Assert.Equal("a", Assert.Single(_host.Output("$args[0].ActiveAdapters", _model)).ToString());

        Assert.Empty(_host.Output("$args[0] | Enable-PeftAdapter", _model));
        Assert.Equal(adapted, _host.Output(Answer, _model)[0].BaseObject);
        _host.Output("$args[0] | Disable-PeftAdapter -WhatIf", _model);
        Assert.Equal(true, _host.Output("$args[0].AdaptersEnabled", _model)[0].BaseObject);
    }

    [Fact]
    public void Adapters_are_joined_into_a_new_one_by_name_or_from_the_pipeline()
    {
        const string Add = "$null = $args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj -Rank 2 -Initialization false) ";
        _host.Output($"{Add} a; {Add} b", _model);
        _host.Output("$args[0] | Join-PeftAdapter a, b -NewName never -WhatIf", _model);
        var joined = Assert.Single(_host.Output("$args[0] | Join-PeftAdapter a, b -Weight 1, -0.5 -combination_type cat -NewName joined", _model));
        Assert.Equal(4, _host.Output("$args[0].Config.Rank", joined)[0].BaseObject);
        Assert.Equal(2, _host.Output("($args[0] | Get-PeftAdapter a, b | Join-PeftAdapter -Type Ties -Density 0.5 -NewName elected).Config.Rank", _model)[0].BaseObject);
        Assert.Equal(["a", "b", "joined", "elected"], _host.Output("($args[0] | Get-PeftAdapter).Name", _model).Select(static name => name.ToString()));
        Assert.Equal("a", Assert.Single(_host.Output("$args[0].ActiveAdapters", _model)).ToString());
        Assert.StartsWith("CombinationInvalid,", Assert.Single(_host.Run("$args[0] | Join-PeftAdapter a, b -Weight 1 -NewName c", _model).Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.StartsWith("AdapterExists,", Assert.Single(_host.Run("$args[0] | Join-PeftAdapter a, b -NewName a", _model).Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("[float]::NaN")]
    [InlineData("[float]::PositiveInfinity")]
    public void A_strength_that_is_no_number_is_refused_and_the_active_set_stays(string strength)
    {
        _host.Output("$args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj -Rank 2) strong", _model);
        var error = Assert.Single(_host.Run($"$args[0] | Set-ActiveAdapter -AdapterName strong -Weight ({strength})", _model).Errors);
        Assert.StartsWith("AdapterWeightInvalid,", error.FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Equal([1f], _host.Output("$args[0].ActiveSet.Weight; $args[0] | Remove-PeftAdapter strong", _model).Select(static weight => weight.BaseObject));
    }

    [Fact]
    public void Loaded_models_are_listed_by_name_until_they_are_removed()
    {
        var other = _host.Output("Import-PeftModel $args[0] -StructureOnly -Name listed", Path.Combine(ModuleHost.Root, "assets", "pocket-llama"))[0];
        Assert.Equal(["listed"], _host.Output("(Get-PeftModel LIST*).Name").Select(static name => name.ToString()));
        Assert.Contains("listed", _host.Output("(Get-PeftModel).Name").Select(static name => name.ToString()));
        _host.Output("$args[0] | Remove-PeftModel", other);
        Assert.Empty(_host.Output("Get-PeftModel list*"));
        Assert.StartsWith("ModelNotFound,", Assert.Single(_host.Run("Get-PeftModel listed").Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    [Fact]
    public void A_conversation_takes_the_form_of_the_models_template()
    {
        var prompt = _host.Output("'Name a bird.' | ConvertTo-ChatPrompt -Model $args[0] -SystemMessage 'Be brief.'", _model)[0].ToString();
        Assert.Equal("<|system|>Be brief.<|user|>Name a bird.<|assistant|>", prompt);
        var said = _host.Output("@{ role = 'user'; content = 'A' }, [pscustomobject]@{ role = 'assistant'; content = 'B' } | ConvertTo-ChatPrompt -Model $args[0] -NoGenerationPrompt", _model)[0].ToString();
        Assert.StartsWith("<|user|>A<|assistant|>B", said, StringComparison.Ordinal);
        Assert.StartsWith("ChatMessageInvalid,", _host.Run("@{ role = 'user' } | ConvertTo-ChatPrompt -Model $args[0]", _model).Errors[0].FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    public void Dispose() => _host.Run("$args[0] | Remove-PeftModel", _model);
}
