using Peft.Adapters.Model;
using Peft.Files;
using Peft.Tensors;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Tensors;

public sealed class AtomicFileTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void AWriterThatFailsLeavesTheOldFileAndNothingElse()
    {
        var path = _folder.Write("a.json", "old");
        Assert.Throws<InvalidOperationException>(() => AtomicFile.Write(path, stream =>
        {
            stream.Write(new byte[100_000]);
            throw new InvalidOperationException("cancelled in the middle");
        }));
        AssertUntouched(path);
    }

    [SkippableFact]
    public void AFullDiskLeavesTheOldFileAndSaysSo()
    {
        const string FullDevice = "/dev/full";
        Skip.IfNot(File.Exists(FullDevice), "This system has no device that is always full.");
        var path = _folder.Write("a.json", "old");
        var error = Assert.Throws<PeftException>(() => AtomicFile.Write(path, _ =>
        {
            using var full = new FileStream(FullDevice, FileMode.Open, FileAccess.Write, FileShare.ReadWrite, 1);
            full.Write(new byte[4096]);
        }));
        Assert.Equal("DiskFull", error.ErrorId);
        AssertUntouched(path);
    }

    [Theory]
    [InlineData(unchecked((int)0x80070020))]
    [InlineData(unchecked((int)0x80070021))]
    [InlineData(unchecked((int)0x800704C8))]
    public void AFileThatWindowsHoldsForALoadedModelIsNamedWithTheLockAndWhatToDo(int result)
    {
        var path = _folder.Write("a.json", "old");
        Disk.Observer = (step, target) => _ = step == "move" ? throw new IOException("The process cannot access the file.", result) : target;
        var error = Assert.Throws<PeftException>(() => AtomicFile.WriteText(path, "new"));
        Disk.Observer = null;
        Assert.Equal("FileInUse", error.ErrorId);
        Assert.Contains("while a model that was loaded from it holds its weights there", error.Message, StringComparison.Ordinal);
        Assert.Contains("Remove-PeftModel", error.RecommendedAction, StringComparison.Ordinal);
        AssertUntouched(path);
    }

    [Fact]
    public void WhatAKilledProcessLeftIsSweptAwayAndWhatAnotherIsWritingStays()
    {
        var path = _folder["model.safetensors"];
        string left = _folder.Write(".peft-left.partial", "half"), locked = _folder.Write(".peft-locked.partial", "half"), young = _folder.Write(".peft-young.partial", "half");
        using (new FileStream(locked, FileMode.Open, FileAccess.ReadWrite, FileShare.None))
        {
            File.SetLastWriteTimeUtc(left, DateTime.UtcNow.AddDays(-1));
            File.SetLastWriteTimeUtc(locked, DateTime.UtcNow.AddDays(-1));
            AtomicFile.WriteText(path, "new");
        }

        Assert.Equal(((string[])[locked, young, path]).Order(), Directory.GetFiles(_folder.Path).Order());
    }

    [Fact]
    public void WhatALivingProcessHasWrittenButNotYetRenamedStaysWhateverTheClockSays()
    {
        string path = _folder["model.safetensors"], living = _folder[".peft-living.partial"];
        using (AtomicFile.Create(living, stream => stream.WriteByte(1)))
        {
            File.SetLastWriteTimeUtc(living, DateTime.UtcNow.AddYears(-1));
            AtomicFile.WriteText(path, "new");
            Assert.True(File.Exists(living));
        }

        File.SetLastWriteTimeUtc(living, DateTime.UtcNow.AddYears(1));
        AtomicFile.WriteText(path, "newer");
        Assert.False(File.Exists(living));
    }

    [Fact]
    public void AFolderThatCannotBeMadeIsNamed()
    {
        var file = _folder.Write("a.json", "old");
        using var model = TinyLlama.Create();
        Assert.Equal("FileWriteFailed", Assert.Throws<PeftException>(() => model.Save(Path.Combine(file, "inside"))).ErrorId);
    }

    [Fact]
    public void AShardThatFailsLeavesTheWholeOldModel()
    {
        SafetensorsWriter.WriteFolder(_folder.Path, [("a", ones(10)), ("b", ones(10))], maxShardBytes: 40);
        string[] before = [.. Directory.GetFiles(_folder.Path).Order()];
        var disposed = ones(10);
        IEnumerable<(string, Tensor)> tensors = [("a", zeros(10)), ("b", disposed)];
        IEnumerable<(string, Tensor)> DisposeAfterLooking()
        {
            foreach (var tensor in tensors)
            {
                yield return tensor;
            }

            disposed.Dispose();
        }

        Assert.ThrowsAny<Exception>(() => SafetensorsWriter.WriteFolder(_folder.Path, DisposeAfterLooking(), maxShardBytes: 40));
        Assert.Equal(before, Directory.GetFiles(_folder.Path).Order());
        using var store = TensorStore.OpenFolder(_folder.Path);
        Assert.Equal(10, store.Read("a").sum().item<float>());
    }

    [Fact]
    public void AConfigurationThatCannotBeWrittenLeavesTheWholeOldModel()
    {
        using var model = TinyLlama.Create();
        model.Save(_folder.Path);
        var before = File.ReadAllBytes(_folder["model.safetensors"]);
        File.SetAttributes(_folder["config.json"], FileAttributes.ReadOnly);
        try
        {
            using var other = TinyLlama.Create(seed: 2);
            Assert.Equal("FileReadOnly", Assert.Throws<PeftException>(() => other.Save(_folder.Path)).ErrorId);
            Assert.Equal(before, File.ReadAllBytes(_folder["model.safetensors"]));
        }
        finally
        {
            File.SetAttributes(_folder["config.json"], FileAttributes.Normal);
        }
    }

    [Fact]
    public void AReadOnlyFileIsNotReplaced()
    {
        var path = _folder.Write("a.json", "old");
        File.SetAttributes(path, FileAttributes.ReadOnly);
        try
        {
            Assert.Equal("FileReadOnly", Assert.Throws<PeftException>(() => AtomicFile.WriteText(path, "new")).ErrorId);
            AssertUntouched(path);
        }
        finally
        {
            File.SetAttributes(path, FileAttributes.Normal);
        }
    }

    [Fact]
    public void AFileInUseIsReplacedOrRefusedWhole()
    {
        var path = _folder.Write("a.json", "old");
        using (new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.None))
        {
            try
            {
                AtomicFile.WriteText(path, "new");
            }
            catch (PeftException error)
            {
                Assert.Equal("FileWriteFailed", error.ErrorId);
            }
        }

        Assert.Contains(File.ReadAllText(path), (string[])["old", "new"]);
        Assert.Single(Directory.GetFiles(_folder.Path));
    }

    [Fact]
    public void AMissingFolderAndAFolderInTheWayAreNamed()
    {
        Assert.Equal("FolderNotFound", Assert.Throws<PeftException>(() => AtomicFile.WriteText(Path.Combine(_folder["absent"], "a"), "x")).ErrorId);
        Assert.Equal("FileWriteFailed", Assert.Throws<PeftException>(() => AtomicFile.WriteText(_folder.Path, "x")).ErrorId);
    }

    [Fact]
    public void JsonUnderstandsWhatPythonWrites()
    {
        var path = _folder.Write("config.json", "\uFEFF{\"a\": NaN, \"b\": [Infinity, -Infinity], \"c\": \"NaN \\\" Infinity\", \"a\": 1}");
        var value = JsonFile.ReadObject(path);
        Assert.Equal(1, value.GetProperty("a").GetInt32());
        Assert.Equal(1, (int?)JsonFile.ReadNode(path)["a"]);
        Assert.Equal(double.PositiveInfinity, value.GetProperty("b")[0].GetDouble());
        Assert.Equal(double.NegativeInfinity, value.GetProperty("b")[1].GetDouble());
        Assert.Equal("NaN \" Infinity", value.GetProperty("c").GetString());
    }

    private void AssertUntouched(string path)
    {
        Assert.Equal("old", File.ReadAllText(path));
        Assert.Equal([path], Directory.GetFiles(_folder.Path));
    }
}
