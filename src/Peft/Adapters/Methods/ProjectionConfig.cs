using Peft.Adapters.Configuration;

namespace Peft.Adapters.Methods;

/// <summary>What the configurations of VeRA and PVeRA share. Defaults are PEFT's.</summary>
[ConfigWithout("exclude_modules")]
public abstract record ProjectionConfig : LayerwiseConfig
{
    /// <summary>Rank of the projections. It costs little: only vectors of this length are trained in each layer.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 256;

    /// <summary>Seed of the projections.</summary>
    [ConfigField("projection_prng_key", Parameter = "ProjectionSeed", Minimum = 0)]
    public int ProjectionSeed { get; init; }

    /// <summary>Saves the projections with the adapter; without it they are drawn again from the seed when it is loaded.</summary>
    [ConfigField("save_projection")]
    public bool SaveProjection { get; init; } = true;

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    public abstract double Dropout { get; init; }

    /// <summary>Value with which the vectors along the rank start.</summary>
    [ConfigField("d_initial", IsReal = true)]
    public double InitialD { get; init; } = 0.1;

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;
}
