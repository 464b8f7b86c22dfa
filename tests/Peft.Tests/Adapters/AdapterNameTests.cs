using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Targets;

namespace Peft.Tests.Adapters;

/// <summary>An adapter is a folder by its name, on whatever system it is copied to.</summary>
public class AdapterNameTests
{
    [Theory]
    [InlineData("NUL")]
    [InlineData("con")]
    [InlineData("Com1")]
    [InlineData("lpt\u00b2")]
    [InlineData("CONIN$")]
    [InlineData("a ")]
    [InlineData(" a")]
    [InlineData("a\t")]
    [InlineData("a\u001b[2J")]
    [InlineData("a\u202eb")]
    [InlineData("a/b")]
    [InlineData("..")]
    public void ANameThatIsNoFolderSomewhereIsRefused(string name) => Refuse(name);

    [Fact]
    public void HalfASurrogatePairIsRefused() => Refuse("\ud83d");

    [Fact]
    public void ANameTooLongForAFolderIsRefused() => Refuse(new string('a', 300));

    [Theory]
    [InlineData("null")]
    [InlineData("com10")]
    [InlineData("my adapter")]
    [InlineData("añ-👍_1")]
    public void OtherNamesAreTaken(string name)
    {
        using var model = TinyLlama.Create();
        Assert.Equal(name, model.AddAdapter(Config, name, 1).Name);
    }

    [Fact]
    public void ANameThatDiffersFromAnothersByCaseAloneIsRefusedForTheTwoWouldBeOneFolder()
    {
        using var model = TinyLlama.Create();
        using var folder = new TemporaryFolder();
        model.AddAdapter(Config, "Texts", 1);
        model.SaveAdapter("Texts", folder.Path);
        Assert.Equal("AdapterNameInvalid", Assert.Throws<PeftException>(() => model.AddAdapter(Config, "texts", 1)).ErrorId);
        Assert.Equal("AdapterNameInvalid", Assert.Throws<PeftException>(() => model.LoadAdapter(folder.Path, "TEXTS")).ErrorId);
        Assert.Equal("Texts", model.LoadAdapter(folder.Path, "Texts").Name);
    }

    private static LoraConfig Config => new() { Rank = 2, TargetModules = ModuleNames.Of("q_proj") };

    private static void Refuse(string name)
    {
        using var model = TinyLlama.Create();
        Assert.Equal("AdapterNameInvalid", Assert.Throws<PeftException>(() => model.AddAdapter(Config, name, 1)).ErrorId);
    }
}
