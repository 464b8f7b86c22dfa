using System.Globalization;
using System.Management.Automation;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Cmdlets.Commands.Model;

namespace Peft.Tests.PowerShell;

/// <summary>Models and adapters: how they are found, imported, exported, merged and removed, and what is said where that can't be.</summary>
public sealed class ModelCmdletTests(ModuleHost host) : CmdletsInFolder(host, import: "")
{
    [Fact]
    public void A_model_in_a_text_is_its_name_and_finds_itself_by_it()
    {
        var found = host.Output("\"<$($args[0])>\"; $args[0] | Get-PeftModel", host.Output("Import-PeftModel $args[0] -Name itself", PocketLlama)[0]);
        Assert.Equal("<itself>", found[0].BaseObject);
        Assert.Equal("itself", found[1].Properties["Name"].Value);
    }

    [Theory]
    [InlineData("Invoke-TextGeneration 'x'")]
    [InlineData("Export-PeftModel ./gone")]
    public void A_model_without_weights_says_that_only_its_structure_is_there(string command)
    {
        var error = Assert.Single(host.Run("Import-PeftModel $args[0] -StructureOnly -Name empty | " + command, PocketLlama).Errors);
        Assert.StartsWith("WeightsNotLoaded,", error.FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Contains("only its structure was loaded", error.Exception.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("Invoke-TextGeneration 'x'")]
    [InlineData("Invoke-TextGeneration 'x' -AdapterName a")]
    [InlineData("Measure-Perplexity 'one two'")]
    [InlineData("Export-PeftModel ./gone")]
    [InlineData("Add-PeftAdapter (New-LoraConfig -TargetModule q_proj)")]
    public void A_removed_model_is_named_as_such(string command)
    {
        host.Output("$args[0] | Remove-PeftModel; $args[0] | Remove-PeftModel", model);
        var error = Assert.Single(host.Run("$args[0] | " + command, model).Errors);
        Assert.StartsWith("ModelDisposed,", error.FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Contains("Import the model again", error.ErrorDetails.RecommendedAction, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("Remove-PeftModel nosuch", "ModelNotFound")]
    [InlineData("$args[0] | Get-ModelModule nosuch", "ModuleNotFound")]
    [InlineData("$args[0] | Merge-LoraAdapter no*", "AdapterNotFound")]
    [InlineData("$args[0] | Merge-LoraAdapter", "NothingToMerge")]
    [InlineData("$args[0] | Export-PeftAdapter ./none", "AdapterNotFound")]
    [InlineData("$args[0] | Set-ActiveAdapter no*", "AdapterNotFound")]
    [InlineData("$args[0] | Remove-PeftAdapter nosuch", "AdapterNotFound")]
    [InlineData("$args[0] | Get-PeftAdapter nosuch", "AdapterNotFound")]
    [InlineData("$args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) 'a:b'", "AdapterNameInvalid")]
    public void What_is_not_there_is_an_error_with_a_way_out(string command, string id)
    {
        var error = Assert.Single(host.Run(command, model).Errors);
        Assert.StartsWith(id + ",", error.FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.NotEmpty(error.ErrorDetails.RecommendedAction);
    }

    [Fact]
    public void A_module_says_what_is_trained_in_it_and_which_methods_adapt_it_by_default()
    {
        string Of(string path, string property) => host.Output($"($args[0] | Get-ModelModule '{path}').{property} -join ' '", model)[0].ToString();
        host.Output("$args[0] | Add-PeftAdapter (New-LoraConfig -Rank 2 -TargetModule q_proj) a", model);
        var shape = Of("model.layers.0.self_attn.q_proj", "Shape").Split(' ').Select(static size => long.Parse(size, CultureInfo.InvariantCulture)).ToArray();
        Assert.Equal($"{2 * shape.Sum()}", Of("model.layers.0.self_attn.q_proj", "TrainableCount"));
        Assert.Equal($"{2 * shape.Sum()}", Of("model.layers.0", "TrainableCount"));
        Assert.Equal("0", Of("model.layers.0.self_attn.k_proj", "TrainableCount"));
        Assert.Equal("cpu", Of("model.layers.0.self_attn.q_proj", "Device"));
        Assert.NotEmpty(Of("model.layers.0.self_attn.q_proj", "DataType"));
        Assert.Contains("LORA", Of("model.layers.0.self_attn.q_proj", "DefaultMethods").Split(' '));
        Assert.DoesNotContain("IA3", Of("model.layers.0.self_attn.q_proj", "DefaultMethods").Split(' '));
        Assert.Contains("IA3", Of("model.layers.0.self_attn.k_proj", "DefaultMethods").Split(' '));
        Assert.Equal("LN_TUNING", Of("model.layers.0.input_layernorm", "DefaultMethods"));
    }

    [Fact]
    public void Files_and_training_are_measured_before_weights_are_loaded_as_with_them()
    {
        var measured = host.Output(
            """
            $structure = Import-PeftModel $args[1] -StructureOnly -Name structure
            foreach ($one in $args[0], $structure) {
                $null = $one | Add-PeftAdapter (New-LoraConfig -Rank 4) measured
                $measured = $one | Measure-ModelParameter
                $measured.Trainable; $measured.Total; $measured.AdapterBytes; $measured.FullTrainingBytes
            }
            """,
            model,
            PocketLlama).Select(static value => (long)value.BaseObject).ToArray();
        Assert.Equal(measured[..4], measured[4..]);
        Assert.Equal(4 * measured[0], measured[2]);
        Assert.Equal(16 * (measured[1] - measured[0]), measured[3]);
    }

    [Fact]
    public void Removing_by_a_wildcard_that_fits_nothing_is_no_error() =>
        host.Output("Remove-PeftModel nosuch*; $args[0] | Remove-PeftAdapter *; $args[0] | Get-ModelModule no*", model);

    [Fact]
    public void A_path_that_fails_leaves_the_others_their_turn()
    {
        folder.CreateSubdirectory("models/1-broken");
        Directory.CreateSymbolicLink(Path.Combine(folder.FullName, "models", "2-whole"), PocketLlama);
        var wild = host.Run("Import-PeftModel ./models/* -StructureOnly");
        Assert.StartsWith("ModelConfigMissing,", Assert.Single(wild.Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Equal("2-whole", Assert.Single(wild.Output).Properties["Name"].Value);

        host.Output("$args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) a | Export-PeftAdapter ./a", model);
        var listed = host.Run("$args[0] | Import-PeftAdapter ./nowhere, ./a -Force", model);
        Assert.StartsWith("PathNotFound,", Assert.Single(listed.Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Equal("a", Assert.Single(listed.Output).Properties["Name"].Value);
        Assert.Single(host.Run("Remove-PeftModel nosuch, 2-whole").Errors);
        Assert.Empty(host.Output("Get-PeftModel 2-w*"));
    }

    [Fact]
    public void Paths_are_taken_literally()
    {
        Directory.CreateSymbolicLink(Path.Combine(folder.FullName, "m[1]"), PocketLlama);
        Assert.Equal("m[1]", host.Output("Import-PeftModel -LiteralPath './m[1]' -StructureOnly")[0].Properties["Name"].Value);
        host.Output("$args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) a | Export-PeftAdapter './a[1]'", model);
        Assert.Equal("a[1]", host.Output("$args[0] | Import-PeftAdapter -LiteralPath './a[1]'", model)[0].Properties["Name"].Value);
    }

    [Fact]
    public void Importing_and_exporting_show_their_progress()
    {
        Assert.Contains(host.Run("Import-PeftModel $args[0]", PocketLlama).Progress, static record => record.PercentComplete == 100);
        Assert.Contains(host.Run("$args[0] | Export-PeftModel ./out", model).Progress, static record => record.PercentComplete == 100);
    }

    [Fact]
    public void Exporting_says_which_active_adapters_are_left_out()
    {
        host.Output("$args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) a", model);
        Assert.StartsWith("a: active, but not merged", Assert.Single(host.Run("$args[0] | Export-PeftModel ./base", model).Warnings).Message, StringComparison.Ordinal);
        Assert.Empty(host.Run("$args[0] | Merge-LoraAdapter | Export-PeftModel ./merged", model).Warnings);
    }

    [Fact]
    public void Adapters_of_one_name_are_not_written_over_each_other()
    {
        var other = host.Output("Import-PeftModel $args[0] -Name namesake", PocketLlama)[0];
        var result = host.Run("$a = $args[0], $args[1] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) a; $a | Export-PeftAdapter ./both -Force -PassThru", model, other);
        Assert.StartsWith("OutputExists,", Assert.Single(result.Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Single(result.Output);
    }

    [Fact]
    public void Adapters_switch_their_model_once()
    {
        host.Output("$null = $args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) a; $null = $args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) b", model);
        var disabled = host.Output("$args[0] | Get-PeftAdapter | Disable-PeftAdapter -PassThru", model);
        Assert.Equal(false, Assert.Single(disabled).Properties["AdaptersEnabled"].Value);
        Assert.Equal("a", host.Output("$args[0].ActiveAdapters", model)[0].ToString());
        Assert.Equal(true, Assert.Single(host.Output("$args[0] | Enable-PeftAdapter -PassThru", model)).Properties["AdaptersEnabled"].Value);
    }

    [Fact]
    public void Aliases_run_the_cmdlets_they_stand_for()
    {
        host.Output("$null = $args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) a; $null = $args[0] | Merge-PeftAdapter", model);
        Assert.Equal(false, host.Output("($args[0] | Undo-PeftMerge).IsMerged", model)[0].BaseObject);
        Assert.Equal("Invoke-LoraTraining", host.Output("(Get-Command Invoke-PeftTraining).Definition")[0].BaseObject);
    }

    [Fact]
    public void A_stopped_import_leaves_no_model()
    {
        using var shell = host.Create("Import-PeftModel $args[0] -Name stopped -Verbose", PocketLlama);
        using var began = new ManualResetEventSlim();
        using var stopping = new ManualResetEventSlim();
        shell.Streams.Verbose.DataAdded += (_, _) =>
        {
            // The pipeline's thread stays here until the stop is under way; meanwhile the weights are read.
            began.Set();
            stopping.Wait();
            Thread.Sleep(300);
        };
        var invocation = shell.BeginInvoke();
        began.Wait();
        var stop = shell.BeginStop(null, null);
        stopping.Set();
        shell.EndStop(stop);
        Assert.Throws<PipelineStoppedException>(() => shell.EndInvoke(invocation));
        Assert.Empty(host.Output("Get-PeftModel stop*"));
    }
}
