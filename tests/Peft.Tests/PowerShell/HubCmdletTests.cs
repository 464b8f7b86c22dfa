using System.Text;
using Parquet.Serialization;
using Peft.Tests.Hub;

namespace Peft.Tests.PowerShell;

/// <summary>What comes from the hub, at the prompt, from a hub on this machine.</summary>
[Collection(EnvironmentCollection)]
public sealed class HubCmdletTests : CmdletsInFolder
{
    /// <summary>Tests that set the hub's variables run one after the other.</summary>
    internal const string EnvironmentCollection = "hub's environment";

    private const string Name = "someone/pocket";
    private readonly LoopbackHub _hub = new();

    public HubCmdletTests(ModuleHost host)
        : base(host, import: null)
    {
        Set("HF_ENDPOINT", _hub.Address.ToString());
        Set("HF_HOME", folder.FullName);
        Set("HF_HUB_CACHE", null);
        Set("HF_TOKEN", null);
        Set("HF_HUB_OFFLINE", null);
    }

    [Fact]
    public void A_model_is_fetched_once_and_loaded()
    {
        ServeModel();
        var result = host.Run($"Import-PeftModel -HubName {Name}; Import-PeftModel -HubName {Name} -Name again");
        Assert.Empty(result.Errors);
        Assert.Equal(["pocket", "again"], result.Output.Select(static loaded => loaded.Properties["Name"].Value));
        Assert.Equal(_hub.Files.Count, _hub.FileRequests.Count);
        Assert.Contains(result.Progress, static record => record.Activity == $"Fetching '{Name}'" && record.StatusDescription.Contains("MB/s", StringComparison.Ordinal));
    }

    [Fact]
    public void Structure_alone_needs_no_weights()
    {
        ServeModel();
        Assert.Single(host.Output($"Import-PeftModel -HubName {Name} -StructureOnly"));
        Assert.DoesNotContain(_hub.FileRequests, static request => request.Path.EndsWith(".safetensors", StringComparison.Ordinal));
        Assert.Single(host.Output($"Import-PeftModel -HubName {Name}"));
    }

    [Fact]
    public void What_was_saved_is_there_offline_and_goes_down_the_pipeline()
    {
        ServeModel();
        var saved = host.Output($"Save-HubModel {Name}")[0];
        Assert.Equal(LoopbackHub.Commit, saved.Properties["Commit"].Value);
        Assert.Single(host.Output("$args[0] | Import-PeftModel -StructureOnly -Name piped", saved));
        Set("HF_HUB_OFFLINE", "1");
        Assert.Single(host.Output($"Import-PeftModel -HubName {Name} -StructureOnly"));
        Assert.StartsWith("HubOffline,", host.Run($"Save-HubModel {Name}").Errors[0].FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.StartsWith("HubModelNotCached,", host.Run("Import-PeftModel -HubName someone/else").Errors[0].FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    [Fact]
    public void WhatIf_asks_nothing()
    {
        host.Output($"Save-HubModel {Name} -WhatIf");
        Assert.Empty(_hub.Requests);
    }

    [Theory]
    [InlineData("Import-PeftModel HuggingFaceTB/SmolLM2-135M", "Import-PeftModel -HubName HuggingFaceTB/SmolLM2-135M")]
    [InlineData("Import-PeftAdapter someone/adapter -Model $model", "Import-PeftAdapter -HubName someone/adapter")]
    public void A_name_given_as_a_path_is_answered_with_what_to_type(string script, string advice)
    {
        var error = host.Run("$model = Import-PeftModel $args[0] -StructureOnly; " + script, PocketLlama).Errors[0];
        Assert.StartsWith("PathNotFound,", error.FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Contains(advice, error.Exception.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_adapter_is_fetched_and_attached()
    {
        host.Output("""
            $global:model = Import-PeftModel $args[0]
            $null = $model | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) made | Export-PeftAdapter ./out/made
            """, PocketLlama);
        foreach (var file in Directory.GetFiles(Path.Combine(folder.FullName, "out", "made")).Where(static file => !Path.GetFileName(file).StartsWith('.')))
        {
            _hub.Files[Path.GetFileName(file)] = File.ReadAllBytes(file);
        }

        var adapter = host.Output("$model | Import-PeftAdapter -HubName someone/adapter")[0];
        Assert.Equal("adapter", adapter.Properties["Name"].Value);
    }

    [Fact]
    public async Task A_data_set_is_read_by_its_parts()
    {
        _hub.Files["README.md"] = "#"u8.ToArray();
        _hub.Files["data/train-00000-of-00002.parquet"] = await Parquet("a", "b");
        _hub.Files["data/train-00001-of-00002.parquet"] = await Parquet("c");
        _hub.Files["data/test-00000-of-00001.parquet"] = await Parquet("d");
        var data = host.Output("Import-TrainingDataset -HubName someone/data; Import-TrainingDataset -HubName someone/data -Split test");
        Assert.Equal([3, 1], data.Select(static set => (int)set.Properties["Count"].Value));
        Assert.Equal("someone/data", data[0].Properties["Origin"].Value);
        Set("HF_HUB_OFFLINE", "1");
        Assert.Equal(3, host.Output("Import-TrainingDataset -HubName someone/data")[0].Properties["Count"].Value);
        Assert.StartsWith("HubSplitUnknown,", host.Run("Import-TrainingDataset -HubName someone/data -Split other").Errors[0].FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    [Fact]
    public void A_data_set_in_the_cache_is_used_where_the_hub_is_gone()
    {
        _hub.Files["rows.json"] = Encoding.UTF8.GetBytes("""[{ "instruction": "a", "output": "b" }]""");
        host.Output("Import-TrainingDataset -HubName someone/data");
        _hub.Dispose();
        var result = host.Run("Import-TrainingDataset -HubName someone/data");
        Assert.Single(result.Output);
        Assert.Contains(result.Warnings, static warning => warning.Message.Contains("cache", StringComparison.Ordinal));
    }

    protected override void Dispose(bool disposing)
    {
        foreach (var name in new[] { "HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE" })
        {
            Set(name, null);
        }

        _hub.Dispose();
        base.Dispose(disposing);
    }

    private static void Set(string name, string? value) => Environment.SetEnvironmentVariable(name, value);

    private static async Task<byte[]> Parquet(params string[] texts)
    {
        using var stream = new MemoryStream();
        await ParquetSerializer.SerializeAsync(texts.Select(static text => new { prompt = text, completion = text.ToUpperInvariant() }), stream);
        return stream.ToArray();
    }

    private void ServeModel()
    {
        foreach (var file in Directory.GetFiles(PocketLlama))
        {
            _hub.Files[Path.GetFileName(file)] = File.ReadAllBytes(file);
        }
    }
}
