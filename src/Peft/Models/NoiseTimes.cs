namespace Peft.Models;

/// <summary>How noisy what each row of a pass shows is, in a diffusion model.</summary>
/// <param name="Timesteps">The timestep of each row.</param>
/// <param name="Count">Number of timesteps there are; at that one nothing but noise would be left.</param>
public sealed record NoiseTimes(IReadOnlyList<double> Timesteps, int Count);
