using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Benchmarks.Training;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Adapters;

/// <summary>Training with each method: 4 x 512 random tokens a step on the small base, with the same configuration at the peer.</summary>
internal static class MethodBenchmark
{
    private const int Steps = 6;
    private const string Linear = "\"target_modules\":\"all-linear\"";

    /// <summary>The methods: the end of the job's name, PEFT's name, its class there, and its arguments.</summary>
    private static readonly (string Name, string Method, string Class, string Arguments)[] s_methods =
    [
        ("lora", "LORA", "LoraConfig", $$"""{"r":8,"lora_alpha":16,{{Linear}}}"""),
        ("rslora", "LORA", "LoraConfig", $$"""{"r":8,"lora_alpha":16,"use_rslora":true,{{Linear}}}"""),
        ("dora", "LORA", "LoraConfig", $$"""{"r":8,"lora_alpha":16,"use_dora":true,{{Linear}}}"""),
        ("ia3", "IA3", "IA3Config", """{"target_modules":["k_proj","v_proj","down_proj"],"feedforward_modules":["down_proj"]}"""),
        ("loha", "LOHA", "LoHaConfig", $$"""{"r":8,"alpha":16,{{Linear}}}"""),
        ("lokr", "LOKR", "LoKrConfig", $$"""{"r":8,"alpha":16,{{Linear}}}"""),
        ("adalora", "ADALORA", "AdaLoraConfig", """{"init_r":12,"target_r":8,"total_step":1000,"tinit":100,"tfinal":100,"target_modules":["q_proj","k_proj","v_proj","o_proj","gate_proj","up_proj","down_proj"]}"""),
        ("vera", "VERA", "VeraConfig", $$"""{"r":256,{{Linear}}}"""),
        ("oft", "OFT", "OFTConfig", $$"""{"r":0,"oft_block_size":32,{{Linear}}}"""),
        ("prompt", "PROMPT_TUNING", "PromptTuningConfig", """{"num_virtual_tokens":20}"""),
        ("prefix", "PREFIX_TUNING", "PrefixTuningConfig", """{"num_virtual_tokens":20}"""),
        ("cartridge", "CARTRIDGE", "CartridgeConfig", """{"num_virtual_tokens":20}"""),
        ("frod", "FROD", "FrodConfig", $$"""{"progressbar":false,{{Linear}}}"""),
        ("ptuning", "P_TUNING", "PromptEncoderConfig", """{"num_virtual_tokens":20,"encoder_hidden_size":128}"""),
        ("hra", "HRA", "HRAConfig", $$"""{"r":8,{{Linear}}}"""),
        ("miss", "MISS", "MissConfig", $$"""{"r":32,{{Linear}}}"""),
        ("delora", "DELORA", "DeloraConfig", $$"""{"r":8,{{Linear}}}"""),
        ("shira", "SHIRA", "ShiraConfig", $$"""{"r":8,{{Linear}}}"""),
        ("fourierft", "FOURIERFT", "FourierFTConfig", $$"""{"n_frequency":1000,{{Linear}}}"""),
        ("waveft", "WAVEFT", "WaveFTConfig", $$"""{"n_frequency":1000,{{Linear}}}"""),
        ("c3a", "C3A", "C3AConfig", $$"""{"block_size":32,{{Linear}}}"""),
        ("gralora", "GRALORA", "GraloraConfig", $$"""{"r":8,"gralora_k":2,{{Linear}}}"""),
        ("hira", "HIRA", "HiraConfig", $$"""{"r":8,{{Linear}}}"""),
        ("road", "ROAD", "RoadConfig", $$"""{"group_size":32,{{Linear}}}"""),
        ("randlora", "RANDLORA", "RandLoraConfig", $$"""{"r":32,{{Linear}}}"""),
        ("vblora", "VBLORA", "VBLoRAConfig", $$"""{"r":4,"num_vectors":60,"vector_length":32,{{Linear}}}"""),
        ("lntuning", "LN_TUNING", "LNTuningConfig", "{}"),
        ("tokens", "TRAINABLE_TOKENS", "TrainableTokensConfig", """{"token_indices":[5,6,7]}"""),
    ];

    /// <summary>A job for each.</summary>
    public static IEnumerable<Benchmark> Jobs() => s_methods.Select(static entry => new Benchmark(
        $"method-{entry.Name}",
        "tokens/s",
        () => TrainingBenchmark.Measure(ModelShape.Pocket, ScalarType.Float32, Steps, config: Config(entry.Method, entry.Arguments)),
        ["train", "--shape", ModelShape.Pocket.Name, "--dtype", "float32", "--steps", $"{Steps}", "--method", entry.Class, "--arguments", entry.Arguments]));

    private static AdapterConfig Config(string method, string arguments)
    {
        var document = (JsonObject)JsonNode.Parse(arguments)!;
        document["peft_type"] = method;
        document["task_type"] = "CAUSAL_LM";
        return AdapterConfig.FromJson(document);
    }
}
