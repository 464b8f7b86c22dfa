using System.Globalization;
using System.Text.Json.Nodes;

namespace Peft.Models.Layers;

/// <summary>
/// The angular frequencies of rotary positions (Su et al. 2021) and how a configuration scales them for long inputs: <c>linear</c>,
/// <c>dynamic</c> (NTK), <c>yarn</c> (Peng et al. 2023), <c>llama3</c>, <c>longrope</c> (Ding et al. 2024), <c>proportional</c>.
/// Reads <c>rope_parameters</c> as transformers 5 saves it and <c>rope_theta</c> with <c>rope_scaling</c> as published files have it.
/// </summary>
public sealed class RotaryFrequencies
{
    private readonly ModelConfig _values;
    private readonly string _kind;
    private readonly double _theta;
    private readonly double _factor;
    private readonly long _maximum;
    private readonly double _original;
    private readonly long _turning;
    private readonly long _width;

    /// <summary>Reads the configuration.</summary>
    /// <param name="config">The model's configuration.</param>
    /// <param name="headSize">Width of an attention head.</param>
    /// <param name="partial">Share of the head that turns where the configuration doesn't say; null for all of it, whatever it says of unscaled positions.</param>
    /// <param name="parameters">The <c>rope_parameters</c> to read where a model has several; null for the configuration's own.</param>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>RotaryScalingNotSupported</c>.</exception>
    public RotaryFrequencies(ModelConfig config, long headSize, double? partial = null, JsonObject? parameters = null)
    {
        ArgumentNullException.ThrowIfNull(config);
        _values = new ModelConfig(parameters ?? config.Node("rope_parameters") as JsonObject ?? config.Node("rope_scaling") as JsonObject ?? config.KnownFamily?.Defaults?["rope_scaling"] as JsonObject ?? []);
        _kind = _values.String("rope_type") ?? _values.String("type") ?? "default";
        if (_kind is not ("default" or "linear" or "dynamic" or "yarn" or "llama3" or "longrope" or "su" or "proportional"))
        {
            throw new NotSupportedByPeftException("RotaryScalingNotSupported", $"Rotary scaling '{_kind}' is not supported (rope_parameters of the model's configuration).")
            {
                Target = _kind,
                RecommendedAction = "Supported are: default, linear, dynamic, yarn, llama3, longrope, su and proportional.",
            };
        }

        _theta = _values.Number("rope_theta") ?? config.Number("rope_theta") ?? 10000;
        var share = _values.Number("partial_rotary_factor") ?? config.Number("partial_rotary_factor") ?? partial ?? 1;
        _width = _kind == "proportional" || (_kind == "default" && partial is null) ? headSize : (long)(headSize * share);

        // As in transformers, where each frequency turns a pair: an odd share of a head turns one element more.
        Size = _width + (_width % 2);
        _turning = (long)(headSize * share / 2);
        if (Size < 0 || Size > headSize)
        {
            throw new PeftException("ModelConfigInvalid", string.Create(CultureInfo.InvariantCulture, $"Rotary positions can't turn {Size} of the {headSize} elements of a head: they come in pairs.")) { Target = "partial_rotary_factor" };
        }

        _maximum = config.Integer("max_position_embeddings") ?? 2048;
        _original = _values.Number("original_max_position_embeddings") ?? config.Number("original_max_position_embeddings") ?? _maximum;
        _factor = _values.Number("factor") ?? _maximum / _original;
        Scale = AttentionFactor();
    }

    /// <summary>How many of a head's elements turn.</summary>
    public long Size { get; }

    /// <summary>Multiplies cosines and sines.</summary>
    public double Scale { get; }

    /// <summary>By how much queries grow with their position (<c>llama_4_scaling_beta</c>), and the length at which that begins; null for not at all.</summary>
    public (double Beta, double Original)? QueryGrowth => _values.Number("llama_4_scaling_beta") is { } beta ? (beta, _original) : null;

    /// <summary>Whether all keys are turned anew when a text grows past the original length (Phi-3); otherwise those in the cache stay as they are.</summary>
    public bool TurnsAnew { get; init; }

    /// <summary>Whether the frequencies depend on how long the input is.</summary>
    public bool DependOnLength => _kind is "dynamic" or "longrope" or "su";

    /// <summary>Radians a position, [<see cref="Size"/> / 2].</summary>
    /// <param name="length">The largest position of the pass plus one.</param>
    public float[] For(long length)
    {
        var plain = Plain(_theta);
        return _kind switch
        {
            "linear" => [.. plain.Select(frequency => (float)(frequency / _factor))],
            "dynamic" => [.. Plain(DynamicBase(length)).Select(static frequency => (float)frequency)],
            "yarn" => Yarn(plain),
            "llama3" => [.. plain.Select(frequency => (float)Llama3(frequency))],
            "longrope" or "su" => LongRope(plain, length),

            // Of the whole head's frequencies the first ones turn (Gemma 4).
            "proportional" => [.. plain.Select((frequency, i) => i < _turning ? (float)(frequency / _factor) : 0)],
            _ => [.. plain.Select(static frequency => (float)frequency)],
        };
    }

    /// <summary>Whether keys that were turned in a row of one length are kept in a longer one.</summary>
    internal bool CanContinue(long from, long to) => !TurnsAnew || _kind == "dynamic" || LengthClass(from) == LengthClass(to);

    /// <summary>A key that is equal for lengths with equal frequencies.</summary>
    internal long LengthClass(long length) => _kind switch
    {
        "dynamic" => Math.Max(length, _maximum),
        "longrope" or "su" => length > _original ? 1 : 0,
        _ => 0,
    };

    private double[] Plain(double from)
    {
        var frequencies = new double[Size / 2];
        for (var i = 0; i < frequencies.Length; i++)
        {
            frequencies[i] = 1.0 / Math.Pow(from, 2.0 * i / _width);
        }

        return frequencies;
    }

    private double DynamicBase(long length)
    {
        var longest = Math.Max(length, _maximum);
        return _theta * Math.Pow((_factor * longest / _maximum) - (_factor - 1), (double)Size / (Size - 2));
    }

    private double Llama3(double frequency)
    {
        var low = Needed("low_freq_factor");
        var high = Needed("high_freq_factor");
        var wavelength = 2 * Math.PI / frequency;
        if (wavelength < _original / high)
        {
            return frequency;
        }

        if (wavelength > _original / low)
        {
            return frequency / _factor;
        }

        var smooth = ((_original / wavelength) - low) / (high - low);
        return ((1 - smooth) * frequency / _factor) + (smooth * frequency);
    }

    private float[] Yarn(double[] plain)
    {
        var from = Bound(_values.Number("beta_fast") ?? 32, Math.Floor);
        var to = Bound(_values.Number("beta_slow") ?? 1, Math.Ceiling);
        from = Math.Max(from, 0);
        to = Math.Min(to, Size - 1);
        to = from == to ? to + 0.001 : to;
        return [.. plain.Select((frequency, i) =>
        {
            var ramp = Math.Clamp((i - from) / (to - from), 0, 1);
            return (float)((frequency / _factor * ramp) + (frequency * (1 - ramp)));
        })];

        // The element that turns so many times within the original length.
        double Bound(double turns, Func<double, double> round)
        {
            var bound = Size * Math.Log(_original / (turns * 2 * Math.PI)) / (2 * Math.Log(_theta));
            return _values.Boolean("truncate") == false ? bound : round(bound);
        }
    }

    private float[] LongRope(double[] plain, long length)
    {
        var key = length > _original ? "long_factor" : "short_factor";
        if (_values.Numbers(key) is not { } factors || factors.Count != plain.Length)
        {
            throw new PeftException("ModelConfigInvalid", string.Create(CultureInfo.InvariantCulture, $"'{key}' of the rotary scaling must hold {plain.Length} numbers."));
        }

        return [.. plain.Select((frequency, i) => (float)(frequency / factors[i]))];
    }

    private double AttentionFactor()
    {
        if (_kind is not ("yarn" or "longrope" or "su"))
        {
            return 1;
        }

        if (_values.Number("attention_factor") is { } given)
        {
            return given;
        }

        if (_kind != "yarn")
        {
            return _factor <= 1 ? 1 : Math.Sqrt(1 + (Math.Log(_factor) / Math.Log(_original)));
        }

        var scale = _values.Number("mscale") ?? 0;
        var all = _values.Number("mscale_all_dim") ?? 0;
        return scale != 0 && all != 0 ? Grown(scale) / Grown(all) : Grown(1);

        double Grown(double by) => _factor <= 1 ? 1 : (0.1 * by * Math.Log(_factor)) + 1;
    }

    private double Needed(string key) => _values.Number(key) ?? throw new PeftException("ModelConfigIncomplete", $"The rotary scaling '{_kind}' needs '{key}'.");
}
