using System.Globalization;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using System.Runtime.Versioning;
using Peft.Engine;
using Peft.Tests.Adapters;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Engine;

/// <summary>What is set before libtorch loads, and how a computation lives with other programs. They run alone: operations of other tests shorten threads' turns as well.</summary>
[Collection(LiveTensors.Name)]
public sealed class EngineSettingsTests
{
    private const string NotLinux = "Only glibc's loader and GNU's OpenMP are told anything.";

    [SkippableFact]
    [SupportedOSPlatform("linux")]
    public void Native_code_sees_the_settings_in_the_processs_own_environment()
    {
        Skip.IfNot(OperatingSystem.IsLinux(), NotLinux);
        EngineSettings.Apply();
        Assert.Equal(Environment.GetEnvironmentVariable("OMP_NUM_THREADS") ?? $"{ComputeThreads.Default}", LinuxProcess.Variable("OMP_NUM_THREADS"));
        if (Avx2.IsSupported)
        {
            var given = Environment.GetEnvironmentVariable("OPENBLAS_CORETYPE");
            Assert.Contains(LinuxProcess.Variable("OPENBLAS_CORETYPE"), given is null ? ["SkylakeX", "Haswell"] : new[] { given });
        }
    }

    [SkippableFact]
    [SupportedOSPlatform("linux")]
    public unsafe void A_library_made_in_memory_answers_as_asked()
    {
        Skip.IfNot(OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture == Architecture.X64, NotLinux);
        Assert.True(LinuxProcess.LoadForAll(OneFunctionLibrary.Make("peft_test_answer", -123456), "peft-test"));
        var answer = (delegate* unmanaged<int>)LinuxProcess.LoadedFunctionOfAll("peft_test_answer");
        Assert.True(answer is not null);
        Assert.Equal(-123456, answer());
    }

    [SkippableFact]
    [SupportedOSPlatform("linux")]
    public void Bytes_that_are_no_library_are_refused()
    {
        Skip.IfNot(OperatingSystem.IsLinux(), NotLinux);
        Assert.False(LinuxProcess.LoadForAll([1, 2, 3], "peft-test-broken"));
    }

    [Fact]
    public void Cores_count_as_shared_at_once_and_as_free_only_after_a_while()
    {
        var sharing = new Sharing();
        Assert.False(sharing.Sees(0.6), "Once is no share.");
        Assert.All(Enumerable.Repeat(0.02, 10), waiting => Assert.False(sharing.Sees(waiting)));
        Assert.False(sharing.Sees(0.2));
        Assert.True(sharing.Sees(0.9));
        Assert.True(sharing.Sees(0.01));
        Assert.True(sharing.Sees(0.1));
        var intervals = 0;
        while (sharing.Sees(0.01))
        {
            Assert.True(++intervals < 100);
        }

        Assert.True(intervals > 3);
        Assert.False(sharing.Sees(0.2));
    }

    [SkippableFact]
    [SupportedOSPlatform("linux")]
    public void Threads_that_have_no_processor_are_counted_and_those_that_end_forgotten()
    {
        Skip.IfNot(OperatingSystem.IsLinux() && File.Exists("/proc/self/schedstat"), NotLinux);
        using var queue = new RunQueue();
        var ended = false;
        Thread[] busy = [.. Enumerable.Range(0, Environment.ProcessorCount + 2).Select(_ => new Thread(() =>
        {
            while (!Volatile.Read(ref ended))
            {
                Thread.SpinWait(1000);
            }
        }))];
        Array.ForEach(busy, static thread => thread.Start());
        Assert.Equal(0, queue.WaitingThreads());
        Thread.Sleep(500);
        Assert.True(queue.WaitingThreads() > 0.5);
        Volatile.Write(ref ended, true);
        Array.ForEach(busy, static thread => thread.Join());
        Assert.True(queue.WaitingThreads() >= 0);
    }

    [SkippableFact]
    [SupportedOSPlatform("linux")]
    public void Threads_have_short_turns_while_cores_are_shared_and_their_own_afterwards()
    {
        Skip.IfNot(OperatingSystem.IsLinux() && File.Exists("/proc/self/schedstat"), NotLinux);
        using var queue = new RunQueue();
        _ = queue.WaitingThreads();
        var threads = Directory.GetDirectories("/proc/self/task").Select(static folder => int.Parse(Path.GetFileName(folder), CultureInfo.InvariantCulture)).ToArray();
        var (own, nice) = (ThreadTurns.Nanoseconds(threads[0]), Nice());
        queue.ShortenTurns();
        var shortened = ThreadTurns.Nanoseconds(threads[0]);
        Assert.Equal(nice, Nice());
        queue.RestoreTurns();
        Assert.Equal((own, nice), (ThreadTurns.Nanoseconds(threads[0]), Nice()));
        Skip.If(own == 0, "This kernel has one length of turns for all.");
        Assert.True(shortened < own);

        // proc(5): the nineteenth field of stat, of which the second, the name, stands in brackets.
        string Nice() => File.ReadAllText($"/proc/self/task/{threads[0]}/stat").Split(')')[^1].Split(' ')[17];
    }

    [SkippableFact]
    public void A_sleeping_team_changes_no_result()
    {
        Skip.IfNot(OperatingSystem.IsLinux(), NotLinux);
        using var scope = NewDisposeScope();
        var x = arange(1 << 20, ScalarType.Float32).mul_(1e-3).sin_().view(1024, 1024);
        var alone = x.mm(x).sum(dim: 1);
        using (var team = SleepingTeam.Start())
        {
            Assert.NotNull(team);
            Assert.Equal(0, alone.sub(x.mm(x).sum(dim: 1)).abs().max().item<float>());
        }

        Assert.Equal(0, alone.sub(x.mm(x).sum(dim: 1)).abs().max().item<float>());
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-1)]
    [InlineData(100000)]
    public void A_number_of_threads_that_the_machine_does_not_have_is_refused(int count) =>
        Assert.Equal("ThreadCountInvalid", Assert.Throws<PeftException>(() => ComputeThreads.Choose(count)).ErrorId);

    [Fact]
    public void A_chosen_number_of_threads_holds_on_threads_that_come_later()
    {
        var before = ComputeThreads.Count;
        try
        {
            ComputeThreads.Choose(1);
            var found = 0;
            var thread = new Thread(() =>
            {
                ComputeThreads.ApplyHere();
                found = get_num_threads();
            });
            thread.Start();
            thread.Join();
            Assert.Equal(1, found);
        }
        finally
        {
            ComputeThreads.Choose(before);
            ComputeThreads.ApplyHere();
        }
    }
}
