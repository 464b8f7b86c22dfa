using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;

namespace Peft.Tests.PowerShell;

/// <summary>Cmdlets that list, switch and talk to a model, by what they do to its answers.</summary>
public sealed class SwitchingCmdletTests : IClassFixture<ModuleHost>, IDisposable
{
    private const string Answer = "($args[0] | Invoke-TextGeneration 'Once upon a' -MaxNewTokens 8).Text";

    private readonly ModuleHost host;
    private readonly object model;

    public SwitchingCmdletTests(ModuleHost host)
    {
        this.host = host;
        model = host.Output("Import-PeftModel $args[0] -DataType float32", Path.Combine(ModuleHost.Root, "assets", "pocket-llama"))[0];
    }

    [Fact]
    public void Disabling_lets_the_base_speak_and_enabling_gives_the_adapters_back()
    {
        var plain = host.Output(Answer, model)[0].BaseObject;
        host.Output("$args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule all-linear -Rank 8 -Alpha 64 -Initialization false) a -Seed 1", model);
        var adapted = host.Output(Answer, model)[0].BaseObject;
        Assert.NotEqual(plain, adapted);

        Assert.Same(((System.Management.Automation.PSObject)model).BaseObject, host.Output("$args[0] | Disable-PeftAdapter -PassThru", model)[0].BaseObject);
        Assert.Equal(plain, host.Output(Answer, model)[0].BaseObject);
        Assert.Equal("a", Assert.Single(host.Output("$args[0].ActiveAdapters", model)).ToString());

        Assert.Empty(host.Output("$args[0] | Enable-PeftAdapter", model));
        Assert.Equal(adapted, host.Output(Answer, model)[0].BaseObject);
        host.Output("$args[0] | Disable-PeftAdapter -WhatIf", model);
        Assert.Equal(true, host.Output("$args[0].AdaptersEnabled", model)[0].BaseObject);
    }

    [Fact]
    public void Adapters_are_joined_into_a_new_one_by_name_or_from_the_pipeline()
    {
        const string Add = "$null = $args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj -Rank 2 -Initialization false) ";
        host.Output($"{Add} a; {Add} b", model);
        host.Output("$args[0] | Join-PeftAdapter a, b -NewName never -WhatIf", model);
        var joined = Assert.Single(host.Output("$args[0] | Join-PeftAdapter a, b -Weight 1, -0.5 -combination_type cat -NewName joined", model));
        Assert.Equal(4, host.Output("$args[0].Config.Rank", joined)[0].BaseObject);
        Assert.Equal(2, host.Output("($args[0] | Get-PeftAdapter a, b | Join-PeftAdapter -Type Ties -Density 0.5 -NewName elected).Config.Rank", model)[0].BaseObject);
        Assert.Equal(["a", "b", "joined", "elected"], host.Output("($args[0] | Get-PeftAdapter).Name", model).Select(static name => name.ToString()));
        Assert.Equal("a", Assert.Single(host.Output("$args[0].ActiveAdapters", model)).ToString());
        Assert.StartsWith("CombinationInvalid,", Assert.Single(host.Run("$args[0] | Join-PeftAdapter a, b -Weight 1 -NewName c", model).Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.StartsWith("AdapterExists,", Assert.Single(host.Run("$args[0] | Join-PeftAdapter a, b -NewName a", model).Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("[float]::NaN")]
    [InlineData("[float]::PositiveInfinity")]
    public void A_strength_that_is_no_number_is_refused_and_the_active_set_stays(string strength)
    {
        host.Output("$args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj -Rank 2) strong", model);
        var error = Assert.Single(host.Run($"$args[0] | Set-ActiveAdapter -AdapterName strong -Weight ({strength})", model).Errors);
        Assert.StartsWith("AdapterWeightInvalid,", error.FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Equal([1f], host.Output("$args[0].ActiveSet.Weight; $args[0] | Remove-PeftAdapter strong", model).Select(static weight => weight.BaseObject));
    }

    [Fact]
    public void Loaded_models_are_listed_by_name_until_they_are_removed()
    {
        var other = host.Output("Import-PeftModel $args[0] -StructureOnly -Name listed", Path.Combine(ModuleHost.Root, "assets", "pocket-llama"))[0];
        Assert.Equal(["listed"], host.Output("(Get-PeftModel LIST*).Name").Select(static name => name.ToString()));
        Assert.Contains("listed", host.Output("(Get-PeftModel).Name").Select(static name => name.ToString()));
        host.Output("$args[0] | Remove-PeftModel", other);
        Assert.Empty(host.Output("Get-PeftModel list*"));
        Assert.StartsWith("ModelNotFound,", Assert.Single(host.Run("Get-PeftModel listed").Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    [Fact]
    public void A_conversation_takes_the_form_of_the_models_template()
    {
        var prompt = host.Output("'Name a bird.' | ConvertTo-ChatPrompt -Model $args[0] -SystemMessage 'Be brief.'", model)[0].ToString();
        Assert.Equal("<|system|>Be brief.<|user|>Name a bird.<|assistant|>", prompt);
        var said = host.Output("@{ role = 'user'; content = 'A' }, [pscustomobject]@{ role = 'assistant'; content = 'B' } | ConvertTo-ChatPrompt -Model $args[0] -NoGenerationPrompt", model)[0].ToString();
        Assert.StartsWith("<|user|>A<|assistant|>B", said, StringComparison.Ordinal);
        Assert.StartsWith("ChatMessageInvalid,", host.Run("@{ role = 'user' } | ConvertTo-ChatPrompt -Model $args[0]", model).Errors[0].FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    public void Dispose() => host.Run("$args[0] | Remove-PeftModel", model);
}
