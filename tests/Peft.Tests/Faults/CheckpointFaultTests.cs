using System.Diagnostics;
using System.Globalization;
using Peft.Files;
using Peft.Tests.Adapters;
using Peft.Tests.Training;
using Peft.Training;
using Peft.Training.Checkpoints;
using Peft.Training.Diffusion;
using static TorchSharp.torch;

namespace Peft.Tests.Faults;

/// <summary>Trainings whose process is killed or asked to end, whose checkpoints are damaged, whose disk fails, whose weights diverge, and that meet others in their folder.</summary>
public sealed class CheckpointFaultTests : IDisposable
{
    private static readonly TrainingOptions s_options = new()
    {
        LearningRate = 5e-2,
        BatchSize = 2,
        MaxSteps = 9,
        Seed = 5,
        CheckpointInterval = 2,
        CheckpointLimit = 3,
    };

    private static readonly Lazy<float[]> s_expected = new(() =>
    {
        using var model = TrainerTests.Model();
        new Trainer(TrainerTests.Request(model, s_options)).Train();
        return TrainerTests.Weights(model);
    });

    private readonly TemporaryFolder _folder = new();

    private string Adapter => _folder["tuned"];

    private string Checkpoints => Path.Combine(Adapter, "checkpoints");

    private string Log => Path.Combine(Adapter, "training_log.jsonl");

    public void Dispose() => _folder.Dispose();

    [SkippableFact, Fault]
    public void ATrainingThatIsKilledAtAnyStepOfTheDiskGoesOnToTheBitsOfOneThatIsNot()
    {
        var steps = 0;
        Disk.Observer = (_, _) => steps++;
        Train(s_options);
        Disk.Observer = null;
        FaultBudget.Run(Enumerable.Range(1, steps), step =>
        {
            Empty();
            Assert.False(ChildProcess.Run(["train", _folder.Path, "0"], step).Ended);
            ResumesToTheSameBits();
        });
    }

    [SkippableFact, Fault]
    public void ATrainingThatIsKilledAtAnyMomentGoesOnToTheBitsOfOneThatIsNot() => FaultBudget.Run(random =>
    {
        Empty();
        ChildProcess.Run(["train", _folder.Path, "20"], killAfter: TimeSpan.FromMilliseconds(random.Next(500, 3000)));
        ResumesToTheSameBits();
    });

    [Fact, Fault]
    public void ATrainingWhoseNewestCheckpointIsDamagedGoesOnFromAnOlderOneToTheSameBits()
    {
        FaultBudget.Run(random =>
        {
            Empty();
            Train(s_options);
            var newest = Path.Combine(Checkpoints, "step-9");
            var files = Directory.GetFiles(newest).Order(StringComparer.Ordinal).ToArray();
            var file = files[random.Next(files.Length)];
            var whole = File.ReadAllBytes(file);
            var damaged = Damage.Apply(whole, random);
            File.WriteAllBytes(file, damaged);
            var record = Train(s_options with { CheckpointLimit = 1 }, resume: true);
            Assert.Equal(damaged.AsSpan().SequenceEqual(whole) ? 9 : 8, record.ResumedFrom);
            Assert.Equal(["step-9"], Steps());
            Assert.Equal(9, Train(s_options, resume: true).ResumedFrom);
        });
    }

    [Theory]
    [InlineData("{}")]
    [InlineData("null")]
    [InlineData("{\"step\":8}")]
    public void AStateThatSaysNothingIsPassedOverEvenWhereItsChecksumIsRight(string text)
    {
        Train(s_options);
        var newest = Path.Combine(Checkpoints, "step-9");
        File.WriteAllText(Path.Combine(newest, "training_state.json"), text);
        File.Delete(Path.Combine(newest, "SHA256SUMS"));
        Checksums.Write(newest);
        Assert.Equal(8, Train(s_options, resume: true).ResumedFrom);
    }

    [Theory]
    [InlineData("{0}\n{1}\n")]
    [InlineData("{0}\n{1}\n{2}\n{3}")]
    [InlineData("{0}\n{1}\n{1}\n{2}\n{3}\n")]
    public void AListOfChecksumsThatIsNotAsItWasWrittenSaysThatTheCheckpointIsDamaged(string form)
    {
        Train(s_options);
        var list = Path.Combine(Checkpoints, "step-9", "SHA256SUMS");
        var lines = File.ReadAllLines(list);
        Assert.Equal(4, lines.Length);
        File.WriteAllText(list, string.Format(CultureInfo.InvariantCulture, form, [.. lines]));
        Assert.Equal(8, Train(s_options, resume: true).ResumedFrom);
    }

    [Fact]
    public void ATrainingWhoseFolderIsTakenAwayMeanwhileLosesNeitherItsLogNorWhatItLearnt()
    {
        var data = new RandomRows(8, TinyLlama.Vocabulary)
        {
            Before = made =>
            {
                if (made == 5)
                {
                    Directory.Delete(Adapter, recursive: true);
                }
            },
        };
        Train(s_options, data: data);
        Assert.Equal(Enumerable.Range(1, 9), File.ReadLines(Log).Select(static line => (int)System.Text.Json.Nodes.JsonNode.Parse(line)!["step"]!));
        Assert.Contains("step-9", Steps());
        ResumesToTheSameBits();
    }

    [Fact]
    public void AFolderThatHasBecomeAFileEndsTheTrainingWithAnErrorThatSaysSo()
    {
        var data = new RandomRows(8, TinyLlama.Vocabulary)
        {
            Before = made =>
            {
                if (made == 5)
                {
                    Directory.Delete(Adapter, recursive: true);
                    File.WriteAllText(Adapter, "mine");
                }
            },
        };
        var error = Assert.Throws<PeftException>(() => Train(s_options, data: data));
        Assert.Contains(error.ErrorId, (string[])["FileWriteFailed", "CheckpointWriteFailed"]);
        Assert.Equal("mine", File.ReadAllText(Adapter));
        File.Delete(Adapter);
    }

    /// <summary>What a clock that is set back or on, a disk with another clock or a copy does to times.</summary>
    [Fact]
    public void TimesOfFilesDecideNothing()
    {
        var random = new Random(1);
        var data = new RandomRows(8, TinyLlama.Vocabulary)
        {
            Before = made =>
            {
                if (made == 7)
                {
                    throw new IOException("The disk has gone.");
                }

                SetTimes(random);
            },
        };
        Assert.Throws<IOException>(() => Train(s_options, data: data));
        SetTimes(random);
        Assert.Equal(["step-2", "step-4", "step-6"], Steps());
        ResumesToTheSameBits();
    }

    [Fact]
    public void OnlyPicturesThatWereThereBeforeATrainingGoWithTheOlderOneWhateverTheClockSays()
    {
        var samples = Directory.CreateDirectory(Path.Combine(_folder.Path, "samples")).FullName;
        string[] files = [.. new[] { "step-2-1.png", "step-4-1.png", "mine.png" }.Select(name => Path.Combine(samples, name))];
        Assert.All(files, static file => File.WriteAllText(file, "older"));
        var older = SamplePictures.Before(_folder.Path);
        File.WriteAllText(files[0], "new");
        File.SetLastWriteTimeUtc(files[0], DateTime.UtcNow.AddYears(-1));
        SamplePictures.Remove(older);
        Assert.Equal([files[2], files[0]], Directory.GetFiles(samples).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void DamagedCheckpointsOfLaterStepsDontPushOutTheOneThatWasJustWritten()
    {
        Train(s_options);
        foreach (var step in (int[])[8, 9])
        {
            File.WriteAllText(Path.Combine(Checkpoints, $"step-{step}", "training_state.json"), "{}");
        }

        var seen = new List<string[]>();
        var data = new RandomRows(8, TinyLlama.Vocabulary) { Before = _ => seen.Add(Steps()) };
        Assert.Equal(6, Train(s_options with { CheckpointLimit = 1, CheckpointInterval = 1 }, resume: true, data: data).ResumedFrom);
        Assert.Contains(seen, static steps => steps.Contains("step-7"));
        Assert.Equal(["step-9"], Steps());
    }

    [Theory]
    [InlineData(3, "step-2")]
    [InlineData(4, "step-2")]
    public void WeightsThatHaveDivergedAreNotGoneOnFrom(int madeBefore, string newest)
    {
        using var model = TrainerTests.Model();
        var data = new RandomRows(8, TinyLlama.Vocabulary)
        {
            Before = made =>
            {
                if (made == madeBefore)
                {
                    model.Base.FindParameter("model.norm.weight")!.Data.fill_(float.NaN);
                }
            },
        };
        List<string> messages = [];
        var request = Request(model, s_options with { CheckpointLimit = 1 }) with { Data = data, OnMessage = messages.Add };
        Assert.Equal("TrainingDiverged", Assert.Throws<PeftException>(() => new Trainer(request).Train()).ErrorId);
        Assert.Equal(newest, Steps()[^1]);
        Assert.Contains(messages, message => message.Contains(newest, StringComparison.Ordinal));
    }

    [Fact]
    public void AnOldCheckpointThatCannotBeDeletedDoesNotEndTheTraining()
    {
        Disk.Observer = static (step, path) => Fail(step == "delete folder" && path.EndsWith("step-2", StringComparison.Ordinal));
        var record = Train(s_options with { CheckpointLimit = 1 });
        Disk.Observer = null;
        Assert.Equal(9, record.Steps.Count);
        Assert.Contains(record.Messages, static message => message.Contains("step-2", StringComparison.Ordinal));
        Assert.Equal(["step-2", "step-9"], Steps());
    }

    /// <summary>A real full disk: a small one in memory, which takes the rights of an administrator.</summary>
    [SkippableFact]
    public void ATrainingWhoseDiskIsFullSaysSoAndGoesOnToTheSameBitsWhenThereIsRoom()
    {
        Skip.IfNot(OperatingSystem.IsLinux() && Run("mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", _folder.Path), "This user can't mount a small disk.");
        try
        {
            var error = Assert.Throws<PeftException>(() => Train(s_options with { CheckpointLimit = 9, CheckpointInterval = 1 }));
            Assert.Contains(error.ErrorId, (string[])["DiskFull", "CheckpointWriteFailed"]);
            Assert.NotEmpty(Steps());
            Assert.True(Run("mount", "-o", "remount,size=4m", _folder.Path));
            ResumesToTheSameBits();
        }
        finally
        {
            Run("umount", _folder.Path);
        }

        static bool Run(string program, params string[] arguments)
        {
            var start = new ProcessStartInfo(program, arguments) { UseShellExecute = false, RedirectStandardError = true };
            using var process = Process.Start(start)!;
            process.WaitForExit();
            return process.ExitCode == 0;
        }
    }

    [Fact]
    public void ALogThatCannotBeWrittenForAWhileDoesNotEndTheTrainingAndIsWholeAfterwards()
    {
        var writes = 0;
        Disk.Observer = (step, path) => Fail(step == "write" && path.EndsWith(".jsonl", StringComparison.Ordinal) && ++writes is 3 or 4);
        var record = Train(s_options);
        Disk.Observer = null;
        Assert.Single(record.Messages, static message => message.Contains("The log", StringComparison.Ordinal));
        Assert.Equal(Enumerable.Range(1, 9), File.ReadLines(Log).Select(static line => (int)System.Text.Json.Nodes.JsonNode.Parse(line)!["step"]!));
    }

    [Fact]
    public void ATrainingGoesOnWhereItsDamagedLogDoesntSayHowLongItTook()
    {
        Train(s_options);
        File.WriteAllText(Log, System.Text.RegularExpressions.Regex.Replace(File.ReadAllText(Log), "\"seconds\":[^,}]*", "\"seconds\":null"));
        var record = Train(s_options with { MaxSteps = 11 }, resume: true);
        Assert.Equal(9, record.ResumedFrom);
        Assert.All(record.Steps.Skip(9), static step => Assert.True(double.IsFinite(step.Seconds)));
        Assert.Equal(11, File.ReadLines(Log).Count());
    }

    [Fact]
    public void AnOlderTrainingIsThereUntilTheFirstCheckpointOfTheNewOne()
    {
        Train(s_options);
        File.WriteAllText(Path.Combine(Checkpoints, "notes.txt"), "mine");
        File.WriteAllText(Path.Combine(Checkpoints, "step-6", "notes.txt"), "mine");
        var log = File.ReadAllText(Log);
        var data = new RandomRows(8, TinyLlama.Vocabulary) { Before = static made => Fail(made == 1) };
        var other = s_options with { LearningRate = 1e-2 };
        Assert.Throws<IOException>(() => Train(other, force: true, data: data));
        Assert.Equal(["step-6", "step-8", "step-9"], Steps());
        Assert.Equal(log, File.ReadAllText(Log));
        Assert.Equal(9, Train(s_options, resume: true).ResumedFrom);

        var record = Train(other, force: true);
        Assert.Equal(["step-6", "step-8", "step-9"], Steps());
        Assert.Equal("mine", File.ReadAllText(Path.Combine(Checkpoints, "notes.txt")));
        Assert.Contains(Directory.GetFiles(Checkpoints, "notes.txt", SearchOption.AllDirectories), static path => path.Contains("step-6", StringComparison.Ordinal));
        Assert.NotEqual(log, File.ReadAllText(Log));
        Assert.NotEmpty(record.Messages);
    }

    [Fact]
    public void WhatAnotherTrainingWouldReplaceIsSaidBeforehand()
    {
        Assert.Empty(TrainingRequest.Replaced(_folder.Path, "tuned"));
        Train(s_options with { CheckpointLimit = 1 });
        File.WriteAllText(Path.Combine(Adapter, "notes.txt"), "mine");
        Assert.Equal(
            ["adapter_model.safetensors", "adapter_config.json", "training_log.jsonl", "training_options.json", "training_run.json", "step-9"],
            TrainingRequest.Replaced(_folder.Path, "tuned").Select(Path.GetFileName));
    }

    [Fact]
    public async Task ASecondTrainingIntoAFolderIsRefusedAndToldWhoHasIt()
    {
        using var inside = new ManualResetEventSlim();
        using var go = new ManualResetEventSlim();
        var data = new RandomRows(8, TinyLlama.Vocabulary)
        {
            Before = _ =>
            {
                inside.Set();
                go.Wait();
            },
        };
        var first = Task.Run(() => Train(s_options, data: data));
        inside.Wait();
        foreach (var force in (bool[])[true, false])
        {
            var error = Assert.Throws<PeftException>(() => Train(s_options, force: force));
            Assert.Equal("OutputBusy", error.ErrorId);
            Assert.Contains($"process {Environment.ProcessId}", error.Message, StringComparison.Ordinal);
            Assert.Contains("trains 'tuned'", error.Message, StringComparison.Ordinal);
        }

        go.Set();
        Assert.Equal(9, (await first).Steps.Count);
        Assert.Empty(Directory.GetFiles(Checkpoints));
        Train(s_options, force: true);
    }

    [SkippableTheory]
    [InlineData("exit")]
    [InlineData("terminate")]
    public void AProcessThatEndsOrIsAskedToWritesThePromisedCheckpointFirst(string how)
    {
        Skip.If(how == "terminate" && OperatingSystem.IsWindows(), "Windows has no SIGTERM.");
        ChildProcess.Run(["train and " + how, _folder.Path]);
        var newest = new CheckpointStore(Checkpoints).NewestFirst()[0];
        Assert.True(newest.Step >= 3);
        Assert.Null(Checksums.Problem(newest.Folder));
        ResumesToTheSameBits();
    }

    /// <summary>In a child: the training of these tests, each step taking a while.</summary>
    internal static void TrainInChild(string output, int milliseconds)
    {
        ChildProcess.DieAtStep();
        Train(output, milliseconds, static _ => { });
    }

    /// <summary>In a child: ends the process after three steps, while the training is in its next one.</summary>
    internal static void TrainAndEnd(string output, bool terminates)
    {
        using var reached = new ManualResetEventSlim();
        new Thread(() => Train(output, 200, made =>
        {
            if (made == 3)
            {
                reached.Set();
            }
        }))
        { IsBackground = true }.Start();
        reached.Wait();
        if (terminates)
        {
            Process.Start("kill", ["-TERM", Environment.ProcessId.ToString(CultureInfo.InvariantCulture)])!.WaitForExit();
            Thread.Sleep(Timeout.Infinite);
        }
    }

    private static void Train(string output, int milliseconds, Action<int> before)
    {
        using var model = TrainerTests.Model();
        var data = new RandomRows(8, TinyLlama.Vocabulary)
        {
            Before = made =>
            {
                before(made);
                Thread.Sleep(milliseconds);
            },
        };
        new Trainer(TrainerTests.Request(model, s_options, data) with { OutputPath = output }).Train();
    }

    private static void Fail(bool when)
    {
        if (when)
        {
            throw new IOException("The disk has gone.");
        }
    }

    private void ResumesToTheSameBits()
    {
        using var model = TrainerTests.Model();
        var request = Request(model, s_options) with { Resume = true };
        try
        {
            new Trainer(request).Train();
        }
        catch (PeftException error) when (error.ErrorId == "OutputExists" && Steps().Length == 0)
        {
            // Killed before the first step: nothing to go on from, and nothing to lose.
            new Trainer(request with { Force = true }).Train();
        }

        Assert.Equal(s_expected.Value, TrainerTests.Weights(model));
        Assert.Equal(9, File.ReadLines(Log).Count());
    }

    private TrainingRecord Train(TrainingOptions options, bool resume = false, bool force = false, ITrainingData? data = null)
    {
        using var model = TrainerTests.Model();
        var request = Request(model, options) with { Resume = resume, Force = force };
        return new Trainer(data is null ? request : request with { Data = data }).Train();
    }

    private TrainingRequest Request(Peft.Adapters.Model.PeftModel model, TrainingOptions options) => TrainerTests.Request(model, options) with { OutputPath = _folder.Path };

    private void SetTimes(Random random)
    {
        foreach (var path in Directory.GetFiles(_folder.Path, "*", SearchOption.AllDirectories))
        {
            File.SetLastWriteTimeUtc(path, DateTime.UtcNow.AddDays(random.Next(-4000, 4000)));
        }
    }

    private void Empty()
    {
        if (Directory.Exists(Adapter))
        {
            Directory.Delete(Adapter, recursive: true);
        }
    }

    private string[] Steps() => Directory.Exists(Checkpoints)
        ? [.. new CheckpointStore(Checkpoints).NewestFirst().Reverse().Select(static entry => Path.GetFileName(entry.Folder))]
        : [];
}
