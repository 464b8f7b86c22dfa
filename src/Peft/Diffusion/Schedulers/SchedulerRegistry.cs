namespace Peft.Diffusion.Schedulers;

/// <summary>The schedulers by diffusers' class names. A new one is a file, and a line here.</summary>
public static class SchedulerRegistry
{
    private static readonly Dictionary<string, Func<SchedulerConfig, NoiseScheduler>> s_factories = new(StringComparer.Ordinal)
    {
        ["DDIMScheduler"] = static config => new DdimScheduler(config),
        ["DDPMScheduler"] = static config => new DdpmScheduler(config),
        ["PNDMScheduler"] = static config => new PndmScheduler(config),
        ["LCMScheduler"] = static config => new LcmScheduler(config),
        ["TCDScheduler"] = static config => new TcdScheduler(config),
        ["EulerDiscreteScheduler"] = static config => new EulerScheduler(config),
        ["EulerAncestralDiscreteScheduler"] = static config => new EulerAncestralScheduler(config),
        ["HeunDiscreteScheduler"] = static config => new HeunScheduler(config),
        ["LMSDiscreteScheduler"] = static config => new LmsScheduler(config),
        ["KDPM2DiscreteScheduler"] = static config => new Kdpm2Scheduler(config),
        ["KDPM2AncestralDiscreteScheduler"] = static config => new Kdpm2AncestralScheduler(config),
        ["DPMSolverMultistepScheduler"] = static config => new DpmSolverMultistepScheduler(config),
        ["DPMSolverSinglestepScheduler"] = static config => new DpmSolverSinglestepScheduler(config),
        ["DEISMultistepScheduler"] = static config => new DeisScheduler(config),
        ["UniPCMultistepScheduler"] = static config => new UniPcScheduler(config),
        ["FlowMatchEulerDiscreteScheduler"] = static config => new FlowMatchEulerScheduler(config),
    };

    /// <summary>Names of all schedulers.</summary>
    public static IReadOnlyCollection<string> Names => s_factories.Keys;

    /// <summary>Makes the scheduler that a configuration names.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="name">Another scheduler than the configuration's, by diffusers' class name or a short one (<c>euler</c>, <c>DPMSolverMultistep</c>), whatever the case; null for its own.</param>
    /// <exception cref="NotSupportedByPeftException"><c>SchedulerNotSupported</c>.</exception>
    /// <exception cref="PeftException"><c>SchedulerConfigInvalid</c>.</exception>
    public static NoiseScheduler Create(SchedulerConfig config, string? name = null)
    {
        ArgumentNullException.ThrowIfNull(config);
        var asked = name ?? config.ClassName ?? throw SchedulerConfig.Invalid("_class_name", "the name of a scheduler");
        return Find(asked) is { } known ? s_factories[known](config) : throw new NotSupportedByPeftException(
            "SchedulerNotSupported", $"There is no scheduler '{asked}'. Choose one of {string.Join(", ", Names)}.{Spelling.DidYouMean(asked, Names)}")
        {
            Target = asked,
        };
    }

    /// <summary>The class name that a name means, or null.</summary>
    /// <param name="name">A class name, or what it begins with before <c>Scheduler</c>, <c>Discrete</c> and <c>Multistep</c>.</param>
    public static string? Find(string name) => Names.FirstOrDefault(known => known.Equals(name, StringComparison.OrdinalIgnoreCase))
        ?? Names.FirstOrDefault(known => Short(known).Equals(Short(name), StringComparison.OrdinalIgnoreCase))
        ?? Names.FirstOrDefault(known => Short(known, "Multistep").Equals(Short(name), StringComparison.OrdinalIgnoreCase));

    private static string Short(string name, string without = "Discrete") =>
        name.Replace("Scheduler", "", StringComparison.OrdinalIgnoreCase).Replace("Discrete", "", StringComparison.OrdinalIgnoreCase).Replace(without, "", StringComparison.OrdinalIgnoreCase);
}
