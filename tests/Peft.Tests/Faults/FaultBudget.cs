using System.Diagnostics;
using System.Globalization;
using System.Reflection;
using System.Runtime.ExceptionServices;

namespace Peft.Tests.Faults;

/// <summary>
/// Repeats a trial for as long as a fault test's share of the time lasts, at least once. <c>PEFT_FAULT_SECONDS</c> is the time of all fault
/// tests together (60 where it isn't set), <c>PEFT_FAULT_SEED</c> the seed of the first trial; each further one has the next seed. A trial
/// that fails says its seed, and with that seed it is the first.
/// </summary>
internal static class FaultBudget
{
    private const double SecondsOfASample = 60;
    private const int SeedOfASample = 1;
    private static readonly TimeSpan s_longestTrial = TimeSpan.FromMinutes(2);

    /// <summary>The seed of the first trial.</summary>
    public static int Seed { get; } = (int)Read("PEFT_FAULT_SEED", SeedOfASample);

    /// <summary>What one test may take: fault tests share the time evenly.</summary>
    public static TimeSpan Share { get; } = TimeSpan.FromSeconds(Read("PEFT_FAULT_SECONDS", SecondsOfASample) / Math.Max(1, CountTests()));

    /// <summary>Runs trials, each with a source of random numbers of its own.</summary>
    /// <param name="trial">A trial. It runs on a thread of its own and fails where it takes longer than two minutes.</param>
    public static void Run(Action<Random> trial) => Repeat(Enumerable.Range(0, int.MaxValue).Select(index => unchecked(Seed + index)), seed => trial(new Random(seed)));

    /// <summary>Runs one trial for each case, in an order that the seed chooses; all of them where the time suffices.</summary>
    /// <param name="cases">The cases.</param>
    /// <param name="trial">A trial, as for <see cref="Run(Action{Random})"/>.</param>
    public static void Run<T>(IEnumerable<T> cases, Action<T> trial)
    {
        var order = cases.ToArray();
        new Random(Seed).Shuffle(order);
        Repeat(order, trial);
    }

    private static void Repeat<T>(IEnumerable<T> cases, Action<T> trial)
    {
        var clock = Stopwatch.StartNew();
        foreach (var item in cases)
        {
            Try(item, trial);
            if (clock.Elapsed > Share)
            {
                return;
            }
        }
    }

    private static void Try<T>(T item, Action<T> trial)
    {
        var again = typeof(T) == typeof(int) ? $"PEFT_FAULT_SEED={item}" : $"PEFT_FAULT_SEED={Seed}";
        Exception? failure = null;
        var thread = new Thread(() =>
        {
            try
            {
                trial(item);
            }
            catch (Exception caught)
            {
                failure = caught;
            }
        })
        { IsBackground = true };
        thread.Start();
        Assert.True(thread.Join(s_longestTrial), $"The trial of {item} hangs ({again}).");
        if (failure is SkipException)
        {
            ExceptionDispatchInfo.Throw(failure);
        }

        if (failure is not null)
        {
            Assert.Fail($"The trial of {item} failed ({again}): {failure}");
        }
    }

    private static int CountTests() => typeof(FaultBudget).Assembly.GetTypes()
        .SelectMany(type => type.GetMethods(BindingFlags.Instance | BindingFlags.Public | BindingFlags.DeclaredOnly), (type, method) => (type, method))
        .Count(test => test.method.IsDefined(typeof(FactAttribute), inherit: true)
            && (test.method.IsDefined(typeof(FaultAttribute)) || test.type.IsDefined(typeof(FaultAttribute))));

    private static double Read(string variable, double otherwise) =>
        Environment.GetEnvironmentVariable(variable) is { Length: > 0 } text ? double.Parse(text, CultureInfo.InvariantCulture) : otherwise;
}
