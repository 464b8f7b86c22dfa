using System.Management.Automation;
using System.Text.Json;
using Peft.Images;
using Peft.Tensors;
using Peft.Tests.Diffusion;
using TorchSharp;

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

    /// <summary>LyCORIS's methods, of its own networks and of PEFT's, are trained, written and read again.</summary>
    [Theory]
    [InlineData("New-PeftConfig -Method LYCORIS -Algorithm loha -Rank 2 -Preset full")]
    [InlineData("New-PeftConfig -Method LYCORIS -Algorithm lokr -Rank 2 -Factor 4 -Preset unet-only")]
    [InlineData("New-PeftConfig -Method LYCORIS -Algorithm ia3 -TargetModule to_k, to_v, ff.net.2")]
    [InlineData("New-PeftConfig -Method LYCORIS -Algorithm full -Preset attn-only")]
    [InlineData("New-PeftConfig -Method LYCORIS -Algorithm dylora -Rank 4 -BlockSize 2 -Preset attn-mlp")]
    [InlineData("New-PeftConfig -Method LYCORIS -Algorithm locon -Rank 2 -ConvolutionRank 1 -UseTucker -UseDora -Preset unet-convblock-only")]
    [InlineData("New-LoHaConfig -Rank 2 -TargetModule to_q, to_v, conv1")]
    [InlineData("New-LoKrConfig -Rank 2 -TargetModule to_q, to_v, conv1")]
    [InlineData("New-IA3Config -TargetModule to_k, to_v, ff.net.2 -FeedforwardModule ff.net.2")]
    public void A_method_of_LyCORIS_is_trained_written_and_read_again(string config)
    {
        WritePictures("pictures");
        Directory.CreateDirectory(_folder["out"]);
        var made = Run($$"""
            $a = $m | Invoke-LoraTraining -Config ({{config}}) -Dataset (Import-TrainingDataset $args[2] -InstancePrompt 'a bird') -AdapterName a -MaxSteps 2 -BatchSize 2 -LearningRate 0.05 6>$null
            $a.TrainingRecord.Losses
            $a | Export-PeftAdapter "$out/a.safetensors" -Format LyCORIS | Out-Null
            $m | Import-PeftAdapter "$out/a.safetensors" b | Out-Null
            'base', 'a', 'b' | ForEach-Object { $m | Invoke-ImageGeneration 'a bird' -AdapterName $_ -Seed 1 -Step 2 -OutputPath "$out/$_.png" | Out-Null }
            """);
        Assert.Equal(2, made.Count);
        Assert.All(made, static loss => Assert.True(double.IsFinite((double)loss.BaseObject)));
        var pictures = new[] { "base", "a", "b" }.Select(name => ImageFile.Read(_folder[$"out/{name}.png"]).Pixels).ToArray();
        Assert.NotEqual(pictures[0], pictures[1]);
        Assert.True(pictures[1].Zip(pictures[2], static (one, other) => Math.Abs(one - other)).Max() <= 2, "what is read again draws the same");
    }

    [Fact]
    public void A_format_is_called_in_reports_as_it_is_asked_for() => Assert.Equal(
        ["Kohya", "LyCORIS", "Diffusers"],
        Run("""
            $m | Add-PeftAdapter (New-LoraConfig -Rank 2 -TargetModule to_q) style | Export-PeftAdapter "$out.safetensors" -Format Kohya 6>$null
            'Kohya', 'LyCORIS', 'Diffusers' | ForEach-Object { "$((Convert-PeftAdapter "$out.safetensors" "$out-$_.safetensors" $_ -Model $m).Format)" }
            """).Select(static item => item.ToString()));

    [Fact]
    public void Latents_and_captions_are_kept_in_a_folder_that_later_trainings_read()
    {
        WritePictures("pictures");
        var said = Run("""
            $learn = @{ Config = New-LoraConfig -Rank 2 -TargetModule to_q, to_v; Dataset = Import-TrainingDataset $args[2] -InstancePrompt 'a bird'; MaxSteps = 2; CachePath = "$out/cache" }
            $m | Invoke-LoraTraining @learn -AdapterName plan -WhatIf 6>$null | Out-Null
            [IO.Directory]::Exists("$out/cache")
            'a', 'b' | ForEach-Object { $m | Invoke-LoraTraining @learn -AdapterName $_ -Verbose 4>&1 6>$null | Where-Object { $_ -is [Management.Automation.VerboseRecord] -and "$_" -match 'latents' } }
            """);
        Assert.Equal("False", said[0].ToString());
        Assert.EndsWith("0 were in '" + _folder["out/cache"] + "', and 3 were computed.", said[1].ToString(), StringComparison.Ordinal);
        Assert.EndsWith("3 were in '" + _folder["out/cache"] + "', and 0 were computed.", said[2].ToString(), StringComparison.Ordinal);
    }

    /// <summary>What is read of captions follows from the adapter, which is there only once it is added.</summary>
    [Fact]
    public void A_training_on_pictures_is_planned_and_several_are_compared()
    {
        WritePictures("pictures");
        var said = Run("""
            $learn = @{ Dataset = Import-TrainingDataset $args[2] -InstancePrompt 'a bird'; MaxSteps = 2 }
            @($m | Invoke-LoraTraining @learn -Config (New-LoraConfig -Rank 2 -TargetModule to_q) -WhatIf 6>&1 | Where-Object { "$_" -match '2 steps' }).Count
            @($m.Adapters).Count
            $m | Invoke-LoraTraining @learn -Config (New-LoraConfig -Rank 2 -TargetModule to_q), (New-LoraConfig -Rank 4 -TargetModule to_q, q_proj) 6>$null
            """);
        Assert.Equal(["1", "0"], said.Take(2).Select(static item => item.ToString()));
        Assert.Equal(["default-r2", "default-r4"], said.Skip(2).Select(static row => row.Properties["Name"].Value));
    }

    [Fact]
    public void Pictures_drawn_along_a_training_are_in_the_report_and_those_of_the_one_it_replaces_are_not()
    {
        WritePictures("pictures");
        var pages = Run("""
            $learn = @{ Config = New-LoraConfig -Rank 2 -TargetModule to_q, to_v; Dataset = Import-TrainingDataset $args[2] -InstancePrompt 'a bird'; AdapterName = 'a'; BatchSize = 2; OutputPath = $out; SamplePrompt = 'a red bird', 'a fish' }
            $m | Invoke-LoraTraining @learn -MaxSteps 3 -EvaluationInterval 1 6>$null | Out-Null
            [IO.File]::WriteAllText("$out/a/samples/mine.png", "somebody else's")
            $a = $m | Invoke-LoraTraining @learn -MaxSteps 4 -EvaluationInterval 2 -Force 6>$null
            ($a | Export-TrainingReport "$out/page.html").FullName
            ("$out/a" | Export-TrainingReport "$out/read.html").FullName
            """);
        Assert.Equal(["mine.png", "step-2-1.png", "step-2-2.png", "step-4-1.png", "step-4-2.png"], Directory.GetFiles(_folder["out/a/samples"]).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        foreach (var page in pages.Select(static file => File.ReadAllText(file.ToString())))
        {
            var start = page.IndexOf("id=\"data\">", StringComparison.Ordinal) + "id=\"data\">".Length;
            var pictures = JsonDocument.Parse(page[start..page.IndexOf("</script>", start, StringComparison.Ordinal)]).RootElement.GetProperty("runs")[0].GetProperty("pictures").EnumerateArray().ToArray();
            Assert.Equal(["2 a red bird", "2 a fish", "4 a red bird", "4 a fish"], pictures.Select(static picture => $"{picture.GetProperty("step")} {picture.GetProperty("prompt")}"));
            Assert.Equal(File.ReadAllBytes(_folder["out/a/samples/step-4-2.png"]), pictures[3].GetProperty("png").GetBytesFromBase64());
        }
    }

    /// <summary>PEFT keeps alphas in adapter_config.json: whoever takes its weights takes them with it.</summary>
    [Fact]
    public void An_adapter_in_PEFT_s_layout_is_converted_and_imported_with_its_alpha()
    {
        WritePictures("pictures");
        Run("""
            $learn = @{ Config = New-LoraConfig -Rank 2 -Alpha 7 -TargetModule to_q, to_v; Dataset = Import-TrainingDataset $args[2] -InstancePrompt 'a bird'; AdapterName = 'a'; MaxSteps = 2; LearningRate = 0.05; OutputPath = $out }
            $m | Invoke-LoraTraining @learn 6>$null | Out-Null
            Convert-PeftAdapter "$out/a" "$out/folder.safetensors" Kohya -Model $m | Out-Null
            Convert-PeftAdapter "$out/a/adapter_model.safetensors" "$out/file.safetensors" Diffusers -Model $m | Out-Null
            $m | Import-PeftAdapter "$out/folder.safetensors", "$out/file.safetensors" | Out-Null
            $m | Import-PeftAdapter "$out/a/adapter_model.safetensors" plain | Out-Null
            'a', 'folder', 'file', 'plain' | ForEach-Object { $m | Invoke-ImageGeneration 'a bird' -AdapterName $_ -Seed 1 -Step 2 -OutputPath "$out/$_.png" | Out-Null }
            """);
        Assert.All(
            new[] { "folder", "file", "plain" },
            name => Assert.True(ImageFile.Read(_folder[$"out/{name}.png"]).Pixels.Zip(ImageFile.Read(_folder["out/a.png"]).Pixels, static (one, other) => Math.Abs(one - other)).Max() <= 1, name));
        Assert.Equal("AdapterModelUnclear", ErrorId("Convert-PeftAdapter \"$out/a\" \"$out/none.safetensors\" Kohya"));
        Assert.Equal("DatasetKindUnfit", ErrorId("Import-TrainingDataset \"$out/../pictures\" -InstancePrompt x | Show-TrainingExample -Model $m"));
    }

    /// <summary>Files that fit nothing end in a named error, and an adapter whose place they were to take acts as it did.</summary>
    [Theory]
    [InlineData("xl", "AdapterModelMismatch")]
    [InlineData("strange", "AdapterModelMismatch")]
    [InlineData("half-pair", "AdapterEmpty")]
    [InlineData("nothing", "AdapterEmpty")]
    [InlineData("model", "AdapterEmpty")]
    [InlineData("cut", "SafetensorsTruncated")]
    [InlineData("text", "SafetensorsHeaderTooLong")]
    public void A_file_that_is_no_adapter_of_the_model_changes_nothing(string kind, string errorId)
    {
        const string Block = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k";
        Directory.CreateDirectory(_folder["bad"]);
        var bad = _folder["bad/a.safetensors"];
        using (torch.NewDisposeScope())
        {
            var (down, up) = (torch.ones(2, 64), torch.ones(32, 2));
            Dictionary<string, (string, torch.Tensor)[]> kinds = new()
            {
                ["xl"] = [($"{Block}.lora_down.weight", torch.ones(2, 2048)), ($"{Block}.lora_up.weight", up), ("lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight", torch.ones(2, 1280)), ("lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight", torch.ones(1280, 2))],
                ["strange"] = [("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", down), ("lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight", up)],
                ["half-pair"] = [($"{Block}.lora_down.weight", down), ($"{Block}.alpha", torch.ones(1))],
                ["nothing"] = [("something", down), ("more", up)],
                ["model"] = [("model.diffusion_model.input_blocks.0.0.weight", down), ("first_stage_model.encoder.conv_in.weight", up)],
            };
            SafetensorsWriter.Write(bad, kinds.TryGetValue(kind, out var tensors) ? tensors : [($"{Block}.lora_down.weight", down), ($"{Block}.lora_up.weight", up)]);
        }

        if (kind == "cut")
        {
            File.WriteAllBytes(bad, File.ReadAllBytes(bad)[..^9]);
        }
        else if (kind == "text")
        {
            File.WriteAllText(bad, "<html>404: there is no such file here</html>");
        }

        var result = _host.Run(Start + """
            $m | Add-PeftAdapter (New-LoraConfig -Rank 2 -TargetModule to_q) a | Out-Null
            $m | Invoke-ImageGeneration 'a bird' -Seed 1 -Step 1 -OutputPath "$out/before.png" | Out-Null
            $m | Import-PeftAdapter $args[2] a -Force
            $m | Invoke-ImageGeneration 'a bird' -Seed 1 -Step 1 -OutputPath "$out/after.png" | Out-Null
            "$(($m | Get-PeftAdapter).Name) $(($m | Get-PeftAdapter).Config.PeftType)"
            """, _folder["model"], _folder["out"], bad);
        var error = Assert.Single(result.Errors);
        Assert.True(errorId == error.FullyQualifiedErrorId.Split(',')[0], error.ToString());
        Assert.Equal("a LORA", Assert.Single(result.Output).ToString());
        Assert.Equal(File.ReadAllBytes(_folder["out/before.png"]), File.ReadAllBytes(_folder["out/after.png"]));
    }

    /// <summary>A part of a file may belong to nothing: what fits acts, and a warning names the rest. An alpha may be a list of one number.</summary>
    [Fact]
    public void Keys_that_belong_to_nothing_are_named_beside_those_that_act()
    {
        Directory.CreateDirectory(_folder["out"]);
        var made = Run("$m | Add-PeftAdapter (New-LoraConfig -Rank 2 -TargetModule to_q) a | Export-PeftAdapter \"$out/a.safetensors\" -Format Kohya | Out-Null; \"$out/a.safetensors\"");
        using (var scope = torch.NewDisposeScope())
        using (var file = SafetensorsFile.Open(made[0].ToString()))
        {
            SafetensorsWriter.Write(_folder["more.safetensors"], [.. file.Names.Select(name => (name, name.EndsWith(".alpha", StringComparison.Ordinal) ? file.Read(name).view(1) : file.Read(name))), ("lora_unet_time_machine.lora_down.weight", torch.ones(2, 2))]);
        }

        var result = _host.Run("Get-PeftModel painter | Import-PeftAdapter $args[0] more", _folder["more.safetensors"]);
        Assert.Empty(result.Errors);
        Assert.Contains("lora_unet_time_machine", Assert.Single(result.Warnings).Message, StringComparison.Ordinal);
    }

    /// <summary>Half a model is none: the error names what is missing, and no model is left behind.</summary>
    [Theory]
    [InlineData("unet/diffusion_pytorch_model.safetensors", "mid_block.attentions.0.proj_in.weight")]
    [InlineData("text_encoder/model.safetensors", "encoder.layers.1.mlp.fc2.bias")]
    [InlineData("vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.weight")]
    public void Half_a_model_is_refused_by_the_name_of_what_is_missing(string part, string without)
    {
        var path = _folder["model/" + part];
        using (var scope = torch.NewDisposeScope())
        {
            (string, torch.Tensor)[] kept;
            using (var file = SafetensorsFile.Open(path))
            {
                kept = [.. file.Names.Where(name => !name.EndsWith(without, StringComparison.Ordinal)).Select(name => (name, file.Read(name).clone()))];
                Assert.Equal(file.Names.Count - 1, kept.Length);
            }

            SafetensorsWriter.Write(path, kept);
        }

        var result = _host.Run("Import-PeftModel $args[0] -Name half; Get-PeftModel | Where-Object Name -eq half", _folder["model"]);
        var error = Assert.Single(result.Errors);
        Assert.Equal("WeightsMissing", error.FullyQualifiedErrorId.Split(',')[0]);
        Assert.Contains(without, error.ToString(), StringComparison.Ordinal);
        Assert.Empty(result.Output);
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

    private IReadOnlyList<PSObject> Run(string script) => _host.Output(Start + script, _folder["model"], _folder["out"], _folder["pictures"]);

    private void WritePictures(string folder)
    {
        foreach (var shade in new byte[] { 30, 200 })
        {
            ImageFile.Write(new PixelImage(16, 16, [.. Enumerable.Repeat(shade, 16 * 16 * 3)]), _folder[$"{folder}/{shade}.png"]);
        }
    }

    private string? ErrorId(string script) => _host.Run(Start + script, _folder["model"], _folder["out"]).Errors is [var error, ..] ? error.FullyQualifiedErrorId.Split(',')[0] : null;
}
