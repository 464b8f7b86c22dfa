using System.Text;
using System.Text.RegularExpressions;
using Peft.Images;
using Peft.Tests.Hub;

namespace Peft.Tests.PowerShell;

/// <summary>
/// The blocks of docs/tutorials, typed as they stand, with a hub on this machine: models of which only the structure is asked have their published
/// configurations, so that counts are those of the real ones; those that are run are the embedded model under their name.
/// </summary>
[Collection(HubCmdletTests.EnvironmentCollection)]
public sealed partial class TutorialTests : CmdletsInFolder
{
    private static readonly Dictionary<string, string> s_configurations = new()
    {
        ["tiiuae/falcon-7b"] = """
            {"architectures":["FalconForCausalLM"],"model_type":"falcon","alibi":false,"bias":false,"hidden_size":4544,"multi_query":true,"num_attention_heads":71,"num_hidden_layers":32,"parallel_attn":true,"vocab_size":65024}
            """,
        ["facebook/opt-6.7b"] = """
            {"architectures":["OPTForCausalLM"],"model_type":"opt","ffn_dim":16384,"hidden_size":4096,"max_position_embeddings":2048,"num_attention_heads":32,"num_hidden_layers":32,"vocab_size":50272,"word_embed_proj_dim":4096,"do_layer_norm_before":true}
            """,
        ["google/flan-t5-xxl"] = """
            {"architectures":["T5ForConditionalGeneration"],"model_type":"t5","d_ff":10240,"d_kv":64,"d_model":4096,"decoder_start_token_id":0,"feed_forward_proj":"gated-gelu","num_heads":64,"num_layers":24,"tie_word_embeddings":false,"vocab_size":32128}
            """,
        ["bigscience/bloom-560m"] = """
            {"architectures":["BloomForCausalLM"],"model_type":"bloom","hidden_size":1024,"n_head":16,"n_layer":24,"pad_token_id":3,"vocab_size":250880}
            """,
        ["Salesforce/codegen25-7b-multi_P"] = """
            {"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":4096,"intermediate_size":11008,"num_attention_heads":32,"num_hidden_layers":32,"num_key_value_heads":32,"vocab_size":51200,"rms_norm_eps":1e-06}
            """,
    };

    private static readonly string[] s_embedded = ["HuggingFaceTB/SmolLM2-135M"];

    private readonly LoopbackHub _hub = new();

    public TutorialTests(ModuleHost host)
        : base(host, import: null)
    {
        foreach (var (name, configuration) in s_configurations)
        {
            _hub.Repositories[name] = new() { ["config.json"] = Encoding.UTF8.GetBytes(configuration) };
        }

        foreach (var name in s_embedded)
        {
            _hub.Repositories[name] = Directory.GetFiles(PocketLlama).ToDictionary(static file => Path.GetFileName(file), File.ReadAllBytes);
        }

        var vision = Path.Combine(ModuleHost.Root, "tests", "references", "vision", "vit");
        _hub.Repositories["google/vit-base-patch16-224-in21k"] = new[] { "config.json", "model.safetensors" }.ToDictionary(static name => name, name => File.ReadAllBytes(Path.Combine(vision, name)));
        foreach (var (flower, shade) in new[] { ("daisy", (byte)220), ("tulip", (byte)40) })
        {
            Directory.CreateDirectory(Path.Combine(folder.FullName, "flowers", flower));
            for (var i = 0; i < 5; i++)
            {
                ImageFile.Write(new PixelImage(16, 16, [.. Enumerable.Repeat((byte)(shade + i), 16 * 16 * 3)]), Path.Combine(folder.FullName, "flowers", flower, $"{i}.png"));
            }
        }

        foreach (var part in new[] { "pocket-llama", "data" })
        {
            Directory.CreateDirectory(Path.Combine(folder.FullName, "assets"));
            Directory.CreateSymbolicLink(Path.Combine(folder.FullName, "assets", part), Path.Combine(ModuleHost.Root, "assets", part));
        }

        Set("HF_ENDPOINT", _hub.Address.ToString());
        Set("HF_HOME", Path.Combine(folder.FullName, "hub"));
    }

    public static TheoryData<string> Pages => [.. Directory.GetFiles(Path.Combine(ModuleHost.Root, "docs", "tutorials"), "*.md").Select(static path => Path.GetFileNameWithoutExtension(path)).Order(StringComparer.Ordinal)];

    [Theory]
    [MemberData(nameof(Pages))]
    public void Blocks_run_as_they_stand_and_print_what_the_page_says(string page)
    {
        // The engine's package lacks PowerShell's own modules, which a user has.
        host.Output("""
            function global:Write-Warning { }
            function global:Get-Item([string[]] $Path) { $Path | ForEach-Object { [IO.FileInfo] $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($_) } }
            """);
        var blocks = Blocks().Matches(File.ReadAllText(Path.Combine(ModuleHost.Root, "docs", "tutorials", page + ".md")).ReplaceLineEndings("\n"));
        Assert.NotEmpty(blocks);
        foreach (Match block in blocks)
        {
            var result = host.Run($". {{\n{block.Groups["code"].Value}\n}}");
            var wanted = block.Groups["error"] is { Success: true } error ? new[] { error.Value } : [];
            Assert.Equal(wanted, result.Errors.Select(static error => error.FullyQualifiedErrorId.Split(',')[0]).Take(Math.Max(1, wanted.Length)));
            if (block.Groups["text"].Success)
            {
                Assert.Equal(block.Groups["text"].Value, string.Join('\n', result.Output.Select(static item => item?.ToString())) + "\n");
            }
        }
    }

    protected override void Dispose(bool disposing)
    {
        Set("HF_ENDPOINT", null);
        Set("HF_HOME", null);
        _hub.Dispose();
        base.Dispose(disposing);
    }

    private static void Set(string name, string? value) => Environment.SetEnvironmentVariable(name, value);

    [GeneratedRegex(@"(?:<!-- ends in (?<error>\w+) -->\n)?```powershell\n(?<code>.*?)```(?:\n\n```text\n(?<text>.*?)```)?", RegexOptions.Singleline | RegexOptions.ExplicitCapture, 10_000)]
    private static partial Regex Blocks();
}
