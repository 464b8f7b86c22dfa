using System.Diagnostics;
using System.Globalization;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Tests.Faults;

namespace Peft.Tests.Models;

/// <summary>The largest configurations, without weights, in a process that has done nothing else: PEFT's line for them, and what time and memory that takes.</summary>
public sealed class StructureTests : IDisposable
{
    private const int MostMilliseconds = 1000;
    private const long MostBytes = 200L << 20;

    private readonly TemporaryFolder _folder = new();

    /// <summary>Configurations with rank, targets and what PEFT prints.</summary>
    public static TheoryData<string, int, string, string> Shapes { get; } = new()
    {
        {
            // GPT-3's shape: what the LoRA paper counts at rank 4 on queries and values.
            """{ "model_type": "opt", "hidden_size": 12288, "word_embed_proj_dim": 12288, "ffn_dim": 49152, "num_hidden_layers": 96, "num_attention_heads": 96, "vocab_size": 50272 }""",
            4, "q_proj v_proj", "trainable params: 18,874,368 || all params: 174,623,342,592 || trainable%: 0.0108"
        },
        {
            """{ "model_type": "falcon", "hidden_size": 14848, "num_hidden_layers": 80, "num_attention_heads": 232, "num_kv_heads": 8, "new_decoder_architecture": true, "bias": false, "vocab_size": 65024 }""",
            16, "", "trainable params: 39,321,600 || all params: 178,596,410,368 || trainable%: 0.0220"
        },
        {
            """
            { "model_type": "deepseek_v3", "first_k_dense_replace": 3, "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512, "moe_intermediate_size": 2048, "n_group": 8,
              "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
              "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rope_theta": 10000.0, "routed_scaling_factor": 2.5, "topk_group": 4, "v_head_dim": 128, "vocab_size": 129280 }
            """,
            16, "q_a_proj q_b_proj kv_a_proj_with_mqa kv_b_proj o_proj", "trainable params: 97,006,592 || all params: 671,123,410,944 || trainable%: 0.0145"
        },
    };

    public void Dispose() => _folder.Dispose();

    [SkippableTheory]
    [MemberData(nameof(Shapes))]
    public void A_structure_takes_less_than_a_second_and_200_megabytes(string config, int rank, string targets, string line)
    {
        _folder.Write("config.json", config);
        var report = _folder["report.txt"];
        var (ended, errors) = ChildProcess.Run(["structure", _folder.Path, rank.ToString(CultureInfo.InvariantCulture), targets, report]);
        Assert.True(ended, errors);
        var lines = File.ReadAllLines(report);
        Assert.Equal(line, lines[0]);
        Assert.InRange(long.Parse(lines[1], CultureInfo.InvariantCulture), 0, MostMilliseconds);
        Assert.InRange(long.Parse(lines[2], CultureInfo.InvariantCulture), 0, MostBytes);
    }

    /// <summary>In the child: opens a folder's structure, and says what PEFT says, how many milliseconds of processor time that took and the most memory that the process held.</summary>
    internal static void Measure(string folder, int rank, string targets, string report)
    {
        using var process = Process.GetCurrentProcess();
        var before = process.TotalProcessorTime;
        using var model = PeftModel.Load(folder, new LoadOptions { StructureOnly = true });
        model.AddAdapter(new LoraConfig { Rank = rank, TargetModules = targets.Length == 0 ? null : ModuleNames.Of(targets.Split(' ')) });
        process.Refresh();
        File.WriteAllLines(report, [
            model.ParameterCounts.ToString(),
            ((long)(process.TotalProcessorTime - before).TotalMilliseconds).ToString(CultureInfo.InvariantCulture),
            process.PeakWorkingSet64.ToString(CultureInfo.InvariantCulture)]);
    }
}
