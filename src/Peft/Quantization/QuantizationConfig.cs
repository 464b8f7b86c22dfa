using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Peft.Quantization.Checkpoints;
using static TorchSharp.torch;

namespace Peft.Quantization;

/// <summary>How the linear layers of a model are quantised: transformers' BitsAndBytesConfig, with its defaults.</summary>
public sealed record QuantizationConfig
{
    private static readonly TimeSpan s_patternTime = TimeSpan.FromSeconds(1);

    /// <summary>Whether weights become four-bit numbers by blocks.</summary>
    public bool LoadIn4Bit { get; init; }

    /// <summary>Whether weights become eight-bit integers by rows, and inputs with them (LLM.int8).</summary>
    public bool LoadIn8Bit { get; init; }

    /// <summary>The four-bit type; default FP4, as the peer's.</summary>
    public FourBitType QuantType { get; init; } = FourBitType.FP4;

    /// <summary>Numbers of a four-bit block; default 64. BitsAndBytesConfig has no field for it: each weight's own state says it in a file.</summary>
    public int BlockSize { get; init; } = 64;

    /// <summary>Whether the scales of four-bit blocks are quantised in turn; default false.</summary>
    public bool UseDoubleQuant { get; init; }

    /// <summary>The type in which products with four-bit weights are formed; default float32.</summary>
    public ScalarType ComputeType { get; init; } = ScalarType.Float32;

    /// <summary>The magnitude from which on a column of the input isn't quantised with eight-bit weights; default 6, 0 for none.</summary>
    public double Threshold { get; init; } = 6;

    /// <summary>
    /// Modules that stay as they are, as transformers compares them: by the end of their path, or by a regular expression that a path begins with, up to a
    /// dot or to its end. Null for the model's heads.
    /// </summary>
    public IReadOnlyList<string>? SkipModules { get; init; }

    /// <summary>Reads the fields of a BitsAndBytesConfig, and <c>blocksize</c>, as bitsandbytes calls it.</summary>
    /// <param name="document">The fields by their names, such as <c>load_in_4bit</c>; those that are absent have its defaults.</param>
    /// <exception cref="PeftException"><c>QuantizationInvalid</c>.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>QuantizationNotSupported</c>.</exception>
    public static QuantizationConfig FromJson(JsonObject document)
    {
        ArgumentNullException.ThrowIfNull(document);
        foreach (var unsupported in new[] { "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight" })
        {
            if ((bool?)document[unsupported] == true)
            {
                throw new NotSupportedByPeftException("QuantizationNotSupported", $"'{unsupported}' is not supported.") { Target = unsupported };
            }
        }

        var config = new QuantizationConfig
        {
            LoadIn4Bit = (bool?)document["load_in_4bit"] ?? false,
            LoadIn8Bit = (bool?)document["load_in_8bit"] ?? false,
            QuantType = FourBitType.Named((string?)document["bnb_4bit_quant_type"] ?? FourBitType.FP4.Name),
            BlockSize = (int?)document["blocksize"] ?? 64,
            UseDoubleQuant = (bool?)document["bnb_4bit_use_double_quant"] ?? false,
            ComputeType = TypeNames.Parse((string?)document["bnb_4bit_compute_dtype"] ?? "float32"),
            Threshold = (double?)document["llm_int8_threshold"] ?? 6,
            SkipModules = document["llm_int8_skip_modules"] switch
            {
                // Written by hand, or by what has no null.
                null => null,
                JsonValue text when (string?)text is "null" or "None" => null,
                JsonArray names => [.. names.Select(static name => (string?)name).OfType<string>()],
                var name => [(string)name!],
            },
        };
        config.Validate();
        return config;
    }

    /// <summary>Checks the values.</summary>
    /// <exception cref="PeftException"><c>QuantizationInvalid</c>.</exception>
    public void Validate()
    {
        var fault = LoadIn4Bit == LoadIn8Bit ? "either load_in_4bit or load_in_8bit has to be true"
            : !FourBitBlocks.Sizes.Contains(BlockSize) ? $"a block has {string.Join(", ", FourBitBlocks.Sizes)} numbers, not {BlockSize}"
            : Threshold < 0 ? $"llm_int8_threshold is {Threshold}, but can't be negative" : null;
        if (fault is not null)
        {
            throw new PeftException("QuantizationInvalid", $"The model can't be quantised so: {fault}.");
        }

        // Says now which expression is none.
        _ = Skips("");
    }

    /// <summary>Whether a module stays as it is because <see cref="SkipModules"/> names it.</summary>
    /// <param name="path">The module's path.</param>
    /// <exception cref="PeftException"><c>QuantizationInvalid</c>: an expression that can't be compared with it.</exception>
    internal bool Skips(string path)
    {
        foreach (var name in SkipModules ?? [])
        {
            try
            {
                if (path.EndsWith(name, StringComparison.Ordinal) || Regex.IsMatch(path, $@"\A(?:{name})(?:(?<=\.)|(?=\.|\z))", RegexOptions.CultureInvariant, s_patternTime))
                {
                    return true;
                }
            }
            catch (Exception error) when (error is ArgumentException or RegexMatchTimeoutException)
            {
                throw new PeftException("QuantizationInvalid", $"'{name}' in llm_int8_skip_modules can't be used as a regular expression for module names: {error.Message}", error) { Target = name };
            }
        }

        return false;
    }

    /// <summary>Whether a model that says this of itself is quantised in this way as far as it is, so that the rest of its layers can follow.</summary>
    internal bool GoesOn(JsonObject? document) =>
        (string?)document?["quant_method"] == "bitsandbytes" && JsonNode.DeepEquals((this with { SkipModules = null }).ToJson(), (FromJson(document) with { SkipModules = null }).ToJson());

    /// <summary>What config.json says of a model that is quantised so: BitsAndBytesConfig's fields.</summary>
    public JsonObject ToJson() => new()
    {
        ["_load_in_4bit"] = LoadIn4Bit,
        ["_load_in_8bit"] = LoadIn8Bit,
        ["bnb_4bit_compute_dtype"] = TypeNames.Of(ComputeType),
        ["bnb_4bit_quant_storage"] = "uint8",
        ["bnb_4bit_quant_type"] = QuantType.Name,
        ["bnb_4bit_use_double_quant"] = UseDoubleQuant,
        ["llm_int8_enable_fp32_cpu_offload"] = false,
        ["llm_int8_has_fp16_weight"] = false,
        ["llm_int8_skip_modules"] = SkipModules is null ? null : new JsonArray([.. SkipModules.Select(static name => JsonValue.Create(name))]),
        // transformers refuses a whole number here.
        ["llm_int8_threshold"] = JsonNode.Parse(BitsAndBytesTensors.Number(Threshold)),
        ["load_in_4bit"] = LoadIn4Bit,
        ["load_in_8bit"] = LoadIn8Bit,
        ["quant_method"] = "bitsandbytes",
    };
}
