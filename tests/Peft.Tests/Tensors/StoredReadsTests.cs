using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Tensors;

/// <summary>Values of files on their way into memory.</summary>
public sealed class StoredReadsTests : IDisposable
{
    private const int Count = 300_001;
    private readonly TemporaryFolder _folder = new();
    private readonly WeightMemory _memory = new();
    private readonly DisposeScope _scope = NewDisposeScope();

    private string File => _folder["a.safetensors"];

    public void Dispose()
    {
        _scope.Dispose();
        _memory.Dispose();
        _folder.Dispose();
    }

    [Theory]
    [InlineData(ScalarType.BFloat16, ScalarType.Float32)]
    [InlineData(ScalarType.Float16, ScalarType.Float32)]
    [InlineData(ScalarType.Float32, ScalarType.BFloat16)]
    [InlineData(ScalarType.Float32, ScalarType.Float16)]
    [InlineData(ScalarType.Float32, ScalarType.Float32)]
    [InlineData(ScalarType.Int64, ScalarType.Int64)]
    public void Values_come_as_libtorch_converts_them(ScalarType from, ScalarType to)
    {
        var values = (randn(Count) * 1000).to(from);
        if (from != ScalarType.Int64)
        {
            values[0] = float.NaN;
            values[1] = float.PositiveInfinity;
            values[2] = 1e-7f;
            values[3] = -0f;
        }

        SafetensorsWriter.Write(File, [("first", ones(3)), ("values", values)]);
        using var file = SafetensorsFile.Open(File);
        var target = _memory.Empty([Count], to, CPU);
        var rest = _memory.Empty([Count - 5], to, CPU);
        var reads = new StoredReads(_memory, default);
        reads.Add(file.PlaceOf("values")!, 0, target);
        reads.Add(file.PlaceOf("values")!, 5, rest);
        reads.Run();
        Assert.True(TensorMemory.AreEqual(values.to(to)[1..], target[1..]));
        Assert.True(TensorMemory.AreEqual(values.to(to)[5..], rest));
        Assert.Equal(from != ScalarType.Int64, target[0].to(ScalarType.Float32).isnan().item<bool>());
    }

    [Fact]
    public void A_file_that_is_written_to_or_cut_meanwhile_and_a_cancellation_end_in_errors_of_their_own()
    {
        SafetensorsWriter.Write(File, [("values", randn(Count))]);
        using var file = SafetensorsFile.Open(File);
        var place = file.PlaceOf("values")!;
        Assert.Equal("SafetensorsTruncated", Assert.Throws<PeftException>(() => Read(place with { Offset = place.Offset + 4 })).ErrorId);
        Assert.ThrowsAny<OperationCanceledException>(() => Read(place, new CancellationToken(canceled: true)));
        Read(place);
        System.IO.File.SetLastWriteTimeUtc(File, DateTime.UtcNow.AddSeconds(5));
        Assert.Equal("FileChanged", Assert.Throws<PeftException>(() => Read(place)).ErrorId);
    }

    [SkippableFact]
    public void Weights_lie_in_blocks_that_none_shares_with_small_or_huge_ones()
    {
        Skip.IfNot(OperatingSystem.IsLinux(), "Elsewhere each has memory of its own.");
        Tensor[] weights = [.. Enumerable.Range(0, 40).Select(i => _memory.Empty([1000 + i, 1001], ScalarType.Float32, CPU).fill_(i))];
        var huge = _memory.Empty([WeightMemory.BlockBytes], ScalarType.Byte, CPU).fill_(7);
        var small = _memory.Empty([100], ScalarType.Float32, CPU).fill_(8);
        for (var i = 0; i < weights.Length; i++)
        {
            Assert.Equal(0, TensorMemory.Address(weights[i]) % 64);
            Assert.True(weights[i].eq(i).all().item<bool>());
        }

        // 4 MB each, so that a block of 64 holds 15 or 16.
        var addresses = weights.Select(TensorMemory.Address).Order().ToArray();
        Assert.InRange(addresses.Zip(addresses.Skip(1)).Count(static pair => pair.Second - pair.First < 5 << 20), 37, 39);
        Assert.True(huge.eq(7).all().item<bool>());
        Assert.Equal(0, small.storage_offset());
    }

    private void Read(StoredPlace place, CancellationToken cancellation = default)
    {
        var reads = new StoredReads(_memory, cancellation);
        reads.Add(place, 0, _memory.Empty([Count], ScalarType.Float32, CPU));
        reads.Run();
    }
}
