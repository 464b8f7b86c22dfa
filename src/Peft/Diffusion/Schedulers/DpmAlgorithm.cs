namespace Peft.Diffusion.Schedulers;

/// <summary>Which of the DPM-Solvers integrates (<c>algorithm_type</c>, <c>solver_type</c>).</summary>
/// <param name="PredictsOriginal">Whether the originals are integrated (DPM-Solver++), or the noise.</param>
/// <param name="IsStochastic">Whether noise is added on the way.</param>
/// <param name="IsHeun">Whether differences are integrated exactly, or taken at the middle.</param>
internal sealed record DpmAlgorithm(bool PredictsOriginal, bool IsStochastic, bool IsHeun)
{
    /// <summary>Reads a configuration. Those of related solvers mean DPM-Solver++ at the middle.</summary>
    /// <exception cref="NotSupportedByPeftException"><c>SchedulerNotSupported</c>.</exception>
    /// <exception cref="PeftException"><c>SchedulerConfigInvalid</c>.</exception>
    public static DpmAlgorithm Of(SchedulerConfig config)
    {
        var name = config.Word("algorithm_type", "dpmsolver++")!;
        var algorithm = name switch
        {
            "dpmsolver++" or "deis" => new DpmAlgorithm(true, false, false),
            "sde-dpmsolver++" => new(true, true, false),
            "dpmsolver" => new(false, false, false),
            "sde-dpmsolver" => new(false, true, false),
            _ => throw SchedulerConfig.NotSupported("algorithm_type", name),
        };
        if (!algorithm.PredictsOriginal && config.Word("final_sigmas_type", "zero") == "zero")
        {
            throw SchedulerConfig.Invalid("final_sigmas_type", $"sigma_min where the algorithm is {name}, which can't reach a level without noise");
        }

        return algorithm with { IsHeun = config.Word("solver_type", "midpoint") == "heun" };
    }
}
