namespace Peft.Adapters.Methods.Lycoris;

/// <summary>T-LoRA's masks: the noisier a picture is, the fewer ranks act, so that what is coarse is learnt with few and what is fine with all.</summary>
/// <param name="MinimumRank">Ranks that act at the last timestep.</param>
/// <param name="Power">How fast ranks go: 1 in proportion, more for fewer at high noise.</param>
public sealed record TimestepMask(int MinimumRank = 1, double Power = 1)
{
    /// <summary>Number of ranks that act, as LyCORIS counts them.</summary>
    /// <param name="timestep">The timestep.</param>
    /// <param name="count">Number of timesteps.</param>
    /// <param name="rank">Number of ranks.</param>
    public int Active(double timestep, int count, int rank) =>
        Math.Min(rank, (int)(Math.Pow((count - timestep) / count, Power) * (rank - MinimumRank)) + MinimumRank);
}
