using System.Collections;
using System.Globalization;
using System.Management.Automation;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Cmdlets.Arguments;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>New-LoraConfig: describes a LoRA adapter; nothing is loaded or changed.</summary>
[Cmdlet(VerbsCommon.New, "LoraConfig")]
[OutputType(typeof(LoraConfig))]
public sealed class NewLoraConfigCommand : NewAdapterConfigCommand, IDynamicParameters
{
    private readonly RuntimeDefinedParameterDictionary others = [];

    /// <summary>Rank of the change: the inner size of its two factors. Trainable parameters grow with it.</summary>
    [Parameter]
    [Alias("r")]
    [ValidateRange(1, int.MaxValue)]
    [PSDefaultValue(Value = 8, Help = "8")]
    public int Rank { get; set; } = 8;

    /// <summary>Strength of the change: it is multiplied by alpha / rank.</summary>
    [Parameter]
    [Alias("lora_alpha", "LoraAlpha")]
    [PSDefaultValue(Value = 8, Help = "8")]
    public double Alpha { get; set; } = 8;

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [Parameter]
    [Alias("lora_dropout", "LoraDropout")]
    [ValidateRange(0.0, 1.0)]
    [PSDefaultValue(Value = 0, Help = "0")]
    public double Dropout { get; set; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>lora_only</c> for those of adapted layers.</summary>
    [Parameter]
    [ValidateSet("none", "all", "lora_only")]
    [PSDefaultValue(Value = "none", Help = "none")]
    public string Bias { get; set; } = "none";

    /// <summary>Gives the second factor a bias that is trained.</summary>
    [Parameter]
    [Alias("lora_bias")]
    public SwitchParameter LoraBias { get; set; }

    /// <summary>Multiplies the change by alpha / √rank instead (rank-stabilised LoRA), which keeps high ranks trainable.</summary>
    [Parameter]
    [Alias("use_rslora", "UseRslora")]
    public SwitchParameter RankStabilized { get; set; }

    /// <summary>Other ranks for some modules: a table of name, path ending or regular expression to rank.</summary>
    [Parameter]
    [Alias("rank_pattern")]
    [ValidateNotNull]
    public IDictionary? RankPattern { get; set; }

    /// <summary>Other alphas for some modules: a table of name, path ending or regular expression to alpha.</summary>
    [Parameter]
    [Alias("alpha_pattern")]
    [ValidateNotNull]
    public IDictionary? AlphaPattern { get; set; }

    /// <summary>
    /// How the factors start: <c>true</c> leaves the base's output as it is at first, <c>gaussian</c> too but draws from a normal distribution, <c>false</c> draws both factors (for tests).
    /// </summary>
    [Parameter]
    [Alias("init_lora_weights")]
    [ValidateSet("true", "false", "gaussian")]
    [PSDefaultValue(Value = "true", Help = "true")]
    public string Initialization { get; set; } = "true";

    /// <summary>Says that linear layers hold their weight as [in, out], as GPT-2's do. Peft sees that by itself, so a wrong value does no harm.</summary>
    [Parameter]
    [Alias("fan_in_fan_out")]
    public SwitchParameter FanInFanOut { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        var config = new LoraConfig
        {
            TaskType = TaskType.ToUpperInvariant(),
            TargetModules = Targets(),
            ExcludeModules = Exclusions(),
            LayersToTransform = LayerIndex,
            LayersPattern = LayersPattern,
            ModulesToSave = ModulesToSave,
            Rank = Rank,
            Alpha = Alpha,
            Dropout = Dropout,
            Bias = Bias.ToUpperInvariant() switch { "ALL" => BiasTraining.All, "LORA_ONLY" => BiasTraining.Adapted, _ => BiasTraining.None },
            LoraBias = LoraBias,
            UseRslora = RankStabilized,
            RankPattern = Numbers(RankPattern, nameof(RankPattern), static value => Convert.ToInt32(value, CultureInfo.InvariantCulture)),
            AlphaPattern = Numbers(AlphaPattern, nameof(AlphaPattern), static value => Convert.ToDouble(value, CultureInfo.InvariantCulture)),
            Initialisation = Initialization.ToUpperInvariant() switch
            {
                "FALSE" => LoraInitialisation.Random,
                "GAUSSIAN" => LoraInitialisation.Gaussian,
                _ => LoraInitialisation.Zero,
            },
            FanInFanOut = FanInFanOut,
            BaseModelName = Other("base_model_name_or_path") as string,
            Revision = Other("revision") as string,
            EnsureWeightTying = Other("ensure_weight_tying") is true,
            OtherKeys = new JsonObject(LoraConfig.VariantKeys.Where(key => others[key].IsSet).Select(key => KeyValuePair.Create(key, JsonSerializer.SerializeToNode(Other(key))))),
        };
        config.Validate();
        WriteObject(config);
    }

    /// <summary>
    /// The rest of what PEFT's LoraConfig takes, so that its arguments can be splatted as they stand: variants without code in their unused
    /// values, and what says nothing here.
    /// </summary>
    object IDynamicParameters.GetDynamicParameters()
    {
        (string Key, Type Type)[] known =
        [
            ("base_model_name_or_path", typeof(string)), ("revision", typeof(string)), ("ensure_weight_tying", typeof(bool)),
            ("inference_mode", typeof(bool)), ("auto_mapping", typeof(object)), ("peft_type", typeof(string)),
        ];
        foreach (var (key, type) in known.Concat(LoraConfig.VariantKeys.Select(static key => (key, typeof(object)))))
        {
            others[key] = new RuntimeDefinedParameter(key, type, [new ParameterAttribute { DontShow = true }]);
        }

        return others;
    }

    private object? Other(string key) => DatasetRow.Value(others[key].Value);

    private static Dictionary<string, T> Numbers<T>(IDictionary? table, string parameter, Func<object?, T> convert)
    {
        var numbers = new Dictionary<string, T>(StringComparer.Ordinal);
        foreach (DictionaryEntry entry in table ?? new Hashtable())
        {
            try
            {
                numbers[entry.Key.ToString()!] = convert(entry.Value.Unwrap());
            }
            catch (Exception error) when (error is FormatException or InvalidCastException or OverflowException)
            {
                throw new PeftException("PatternValueInvalid", $"-{parameter} gives '{entry.Value}' for '{entry.Key}', which is no number.", error)
                {
                    Target = entry.Key,
                    RecommendedAction = "Give a table of module names and numbers, such as @{ q_proj = 16 }.",
                };
            }
        }

        return numbers;
    }
}
