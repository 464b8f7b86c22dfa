namespace Peft.Training.Policy;

/// <summary>Means and spreads of rewards.</summary>
internal static class RewardStatistics
{
    // As TRL has it, so that a group of equal rewards divides by something.
    private const double Least = 1e-4;

    /// <summary>Rewards relative to the mean of their group, divided by the spread of the group or of all.</summary>
    /// <param name="rewards">Groups side by side.</param>
    /// <param name="size">Rewards in a group.</param>
    /// <param name="scale"><c>group</c>, <c>batch</c> or <c>none</c>.</param>
    public static double[] Relative(double[] rewards, int size, string scale)
    {
        var all = Deviation(rewards);
        return [.. rewards.Chunk(size).SelectMany(group => group.Select(reward => (reward - group.Average()) / (scale switch
        {
            "group" => Deviation(group) + Least,
            "batch" => all + Least,
            _ => 1,
        })))];
    }

    /// <summary>Values relative to their mean, divided by their spread.</summary>
    public static double[] Normalised(double[] values) => [.. values.Select(value => (value - values.Average()) / (Deviation(values) + Least))];

    /// <summary>The standard deviation of a sample; 0 of fewer than two values.</summary>
    public static double Deviation(IReadOnlyCollection<double> values)
    {
        if (values.Count < 2)
        {
            return 0;
        }

        var mean = values.Average();
        return Math.Sqrt(values.Sum(value => (value - mean) * (value - mean)) / (values.Count - 1));
    }

    /// <summary>The figures of a batch under TRL's names.</summary>
    /// <param name="rated">The answers, groups side by side.</param>
    /// <param name="names">Names of the rewards.</param>
    /// <param name="size">Answers in a group.</param>
    public static Dictionary<string, double> Figures(IReadOnlyList<RatedCompletion> rated, IReadOnlyList<string> names, int size)
    {
        var figures = new Dictionary<string, double>(StringComparer.Ordinal);
        for (var r = 0; r < names.Count; r++)
        {
            double[] own = [.. rated.Select(answer => answer.Rewards[r]).OfType<double>()];
            if (own.Length > 0)
            {
                figures[$"rewards/{names[r]}/mean"] = own.Average();
                figures[$"rewards/{names[r]}/std"] = Deviation(own);
            }
        }

        double[] spreads = [.. rated.Chunk(size).Select(static group => Deviation([.. group.Select(static answer => answer.Reward)]))];
        double[] lengths = [.. rated.Select(static answer => (double)answer.Completion.Ids.Count)];
        figures["reward"] = rated.Average(static answer => answer.Reward);
        figures["reward_std"] = spreads.Average();
        figures["frac_reward_zero_std"] = spreads.Average(static spread => spread < 1e-8 ? 1.0 : 0);
        figures["completions/mean_length"] = lengths.Average();
        figures["completions/max_length"] = lengths.Max();
        figures["completions/clipped_ratio"] = rated.Average(static answer => answer.Completion.IsEnded ? 0.0 : 1);
        return figures;
    }
}
