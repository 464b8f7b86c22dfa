using System.Management.Automation;
using Peft.Images;
using Peft.Tests.Diffusion;

namespace Peft.Tests.PowerShell;

/// <summary>Import-PeftModel, Export-PeftModel and Invoke-ImageGeneration on a diffusion model.</summary>
public sealed class ImageCmdletTests : IClassFixture<ModuleHost>, IDisposable
{
    private const string Start = "$m = Import-PeftModel $args[0] -Name painter; $out = $args[1];";
    private readonly TemporaryFolder _folder = new();
    private readonly ModuleHost _host;

    public ImageCmdletTests(ModuleHost host)
    {
        _host = host;
        using var model = TinyStableDiffusion.Create(_folder.Path);
        model.Save(_folder["model"]);
    }

    public void Dispose()
    {
        _host.Output("Get-PeftModel painter -ErrorAction SilentlyContinue | Remove-PeftModel");
        _folder.Dispose();
    }

    [Fact]
    public void Prompts_come_down_the_pipeline_and_pictures_with_their_settings_are_files()
    {
        var made = Run("'a red bird', 'a blue fish' | Invoke-ImageGeneration -Model $m -Seed 3 -Count 2 -Step 2 -NegativePrompt many -Width 16 -Height 16 -OutputPath $out");
        Assert.Equal(["3", "4", "3", "4"], made.Select(static item => item.Properties["Seed"].Value.ToString()));
        Assert.Equal(4, made.Select(static item => item.Properties["Path"].Value.ToString()).Distinct().Count());
        var texts = ImageFile.ReadTexts(made[0].Properties["Path"].Value.ToString()!);
        Assert.StartsWith("a red bird\nNegative prompt: many\nSteps: 2, Sampler: DDIMScheduler, CFG scale: 7.5, Seed: 3, Size: 16x16, Model: painter", texts["parameters"], StringComparison.Ordinal);
    }

    [Fact]
    public void A_model_comes_down_the_pipeline_and_a_file_may_be_named_once()
    {
        var made = Run("$m | Invoke-ImageGeneration 'a bird' -Step 2 -OutputPath \"$out/bird.png\" -PreviewEvery 1");
        Assert.Equal(["bird.png"], Directory.GetFiles(_folder["out"]).Select(Path.GetFileName));
        Assert.Equal(16, Assert.Single(made).Properties["Width"].Value);
        Assert.Equal("OutputExists", ErrorId("$m | Invoke-ImageGeneration 'a bird' -Step 2 -OutputPath \"$out/bird.png\""));
        Run("$m | Invoke-ImageGeneration 'a fish' -Step 2 -Strength 0.5 -InputImage \"$out/bird.png\" -OutputPath \"$out/fish.png\"");
    }

    [Theory]
    [InlineData("$m | Invoke-ImageGeneration", "TextMissing")]
    [InlineData("$m | Invoke-ImageGeneration bird -Width 15", "ImageOptionsInvalid")]
    [InlineData("$m | Invoke-ImageGeneration bird -Scheduler none", "SchedulerNotSupported")]
    [InlineData("$m | Invoke-ImageGeneration bird -MaskImage \"$($args[0])/model_index.json\"", "ImageUnreadable")]
    [InlineData("Import-PeftModel \"$($args[0])/unet\" -Name painter | Invoke-ImageGeneration bird", "NotADiffusionModel")]
    public void What_is_wrong_is_named(string script, string errorId) => Assert.Equal(errorId, ErrorId(script));

    [Fact]
    public void A_model_is_written_as_one_file_and_read_again()
    {
        var read = Run("$m | Export-PeftModel \"$out.safetensors\"; $n = Import-PeftModel \"$out.safetensors\" -Name painter -ConfigPath $args[0]; $n | Invoke-ImageGeneration 'a bird' -Step 1 -OutputPath $out");
        Assert.Single(read);
        Assert.Equal("OutputExists", ErrorId("$m | Export-PeftModel \"$out.safetensors\""));
    }

    [Fact]
    public void Modules_are_listed_across_the_parts_and_adapters_attach_by_path()
    {
        var listed = Run("$m | Add-PeftAdapter (New-LoraConfig -Rank 2 -TargetModule to_q, to_k, to_v, to_out.0) style; ($m | Get-ModelModule -Kind Linear).Path");
        Assert.Contains(listed, static item => item.ToString() == "text_encoder.encoder.layers.0.mlp.fc1");
        Assert.Contains("painter", Run("Get-PeftModel").Select(static item => item.Properties["Name"]?.Value?.ToString()));
    }

    [Fact]
    public void A_word_is_learnt_written_as_a_file_and_read_under_another_name()
    {
        var made = Run("""
            $m | Invoke-ImageGeneration 'a bird' -Step 1 -OutputPath $out -Seed 1 | Out-Null
            $config = New-PeftConfig -Method TEXTUAL_INVERSION -Token '<toy>' -VectorCount 2 -StartText bird
            $toy = $m | Invoke-LoraTraining -Config $config -Dataset (Import-TrainingDataset $out -InstancePrompt 'a <toy>') -AdapterName toy -MaxSteps 2 6>$null
            $toy | Export-PeftAdapter "$out/toy.safetensors" -Format Diffusers
            ($m | Import-PeftAdapter "$out/toy.safetensors" other -Token '<other>').Config.Token
            $m | Invoke-ImageGeneration 'a <other>' -AdapterName other -Step 1 -OutputPath "$out/other.png"
            """);
        Assert.Equal("<other>", made[^2].ToString());
        Assert.True(File.Exists(Path.Combine(_folder["out"], "other.png")));
    }

    [Fact]
    public void Adapters_are_active_at_strengths_by_block_and_merged_so()
    {
        const string Adapters = "'a', 'b' | ForEach-Object { $m | Add-PeftAdapter (New-LoraConfig -Rank 2 -TargetModule to_q, to_v) $_ | Out-Null }; ";
        var set = Run(Adapters + "$m | Set-ActiveAdapter a, b -Weight 0.5, 1 -BlockWeight ([ordered]@{ down = 0.5; text_encoder = 0 }), '1,0,1,1,1'; $m.ActiveSet | ForEach-Object ToString; ($m | Merge-LoraAdapter).ActiveSet[1].ToString()");
        Assert.Equal(["0.5 x a by block ({\"down\":0.5,\"text_encoder\":0})", "b by block (1,0,1,1,1)", "b by block (1,0,1,1,1)"], set.Select(static item => item.ToString()));
        Assert.Equal("WeightCountMismatch", ErrorId(Adapters + "$m | Set-ActiveAdapter a, b -BlockWeight @{ down = 1 }, $null, $null"));
        Assert.Equal("BlockStrengthsInvalid", ErrorId(Adapters + "$m | Set-ActiveAdapter a -BlockWeight 1, 2"));
        Assert.Equal("BlockStrengthsInvalid", ErrorId(Adapters + "$m | Set-ActiveAdapter a -BlockWeight 'much'"));
    }

    [Fact]
    public void Images_in_a_folder_for_each_class_are_learnt_and_measured()
    {
        foreach (var (label, colour) in new[] { ("red", (byte)0), ("blue", (byte)255) })
        {
            Directory.CreateDirectory(_folder[$"classes/{label}"]);
            for (byte i = 0; i < 4; i++)
            {
                ImageFile.Write(new PixelImage(20, 18, [.. Enumerable.Repeat(new byte[] { (byte)(255 - colour), i, colour }, 360).SelectMany(static pixel => pixel)]), _folder[$"classes/{label}/{i}.png"]);
            }
        }

        var made = _host.Output(
            """
            $v = Import-PeftModel $args[0] -Name seer -TaskType IMAGE_CLASSIFICATION -Label blue, red
            $data = Import-TrainingDataset $args[1]
            $a = $v | Invoke-LoraTraining -Config (New-LoraConfig -Rank 4 -TargetModule query, value, projection) -Dataset $data -AdapterName colours -MaxSteps 40 -LearningRate 2e-2 -OutputPath $args[2] 6>$null
            $a.Config.ModulesToSave; "task $($a.Config.TaskType)"; $a.Adapter.Layers.Count; ($v | Measure-TextAnswer $data).Accuracy.ToString()
            $v | Remove-PeftModel
            """,
            Path.Combine(RepositoryRoot.Folder, "tests", "references", "vision", "vit"),
            _folder["classes"],
            _folder["learnt"]);
        Assert.Equal(["classifier", "task ", "5", "8 of 8 (100 %, 67.6 to 100)"], made.Select(static item => item.ToString()));
    }

    [Fact]
    public void Ctrl_C_gives_the_prompt_back()
    {
        using var shell = _host.Create(Start + "$m | Invoke-ImageGeneration 'a bird' -Step 1000 -Count 100 -OutputPath $out", _folder["model"], _folder["out"]);
        var invocation = shell.BeginInvoke();
        Assert.True(SpinWait.SpinUntil(() => shell.Streams.Progress.Any(static record => record.Activity == "Making a picture"), TimeSpan.FromSeconds(60)));
        shell.Stop();
        Assert.Throws<PipelineStoppedException>(() => shell.EndInvoke(invocation));
    }

    private IReadOnlyList<PSObject> Run(string script) => _host.Output(Start + script, _folder["model"], _folder["out"]);

    private string? ErrorId(string script) => _host.Run(Start + script, _folder["model"], _folder["out"]).Errors is [var error, ..] ? error.FullyQualifiedErrorId.Split(',')[0] : null;
}
