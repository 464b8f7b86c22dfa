using System.Buffers.Binary;
using System.Text;
using Peft.Files;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Tests.Tensors;

public sealed class SafetensorsTests : TensorFileTests
{
    public static TheoryData<ScalarType> Types => [ScalarType.Float64, ScalarType.Float32, ScalarType.Float16, ScalarType.BFloat16, ScalarType.Int64, ScalarType.Int32, ScalarType.Int16, ScalarType.Int8, ScalarType.Byte, ScalarType.Bool];

    [Theory]
    [MemberData(nameof(Types))]
    public void EveryTypeComesBackAsItWasWritten(ScalarType type)
    {
        var matrix = (arange(0, 12, ScalarType.Float32) - 5).abs().view(3, 4).to(type);
        var scalar = tensor(1.0f).to(type);
        SafetensorsWriter.Write(Folder["a.safetensors"], [("matrix", matrix), ("transposed", matrix.t()), ("scalar", scalar), ("none", empty([0, 3], type))]);

        using var file = SafetensorsFile.Open(Folder["a.safetensors"]);
        Assert.Equal("pt", file.Metadata["format"]);
        AssertSame(matrix, file.Read("matrix"));
        AssertSame(matrix.t().contiguous(), file.Read("transposed"));
        AssertSame(scalar, file.Read("scalar"));
        Assert.Equal([0, 3], file.Read("none").shape);
        foreach (var name in file.Names)
        {
            AssertSame(file.Read(name), file.Map(name));
        }
    }

    /// <summary>So many numbers that their file is mapped.</summary>
    private const int Large = (int)(MappedFile.SmallestBytes / sizeof(float));

    [Fact]
    public void ReadingConvertsWhenAsked()
    {
        SafetensorsWriter.Write(Folder["a.safetensors"], [("x", tensor(new[] { 1.5f, -2f }).to(ScalarType.BFloat16))]);
        using var file = SafetensorsFile.Open(Folder["a.safetensors"]);
        Assert.Equal([1.5f, -2f], file.Read("x", ScalarType.Float32).data<float>().ToArray());
        Assert.Equal([1.5f, -2f], file.Map("x", ScalarType.Float32).data<float>().ToArray());
    }

    [Fact]
    public void WritingToAMappedTensorLeavesTheFileAlone()
    {
        SafetensorsWriter.Write(Folder["a.safetensors"], [("x", ones(Large))]);
        Tensor mapped;
        using (var file = SafetensorsFile.Open(Folder["a.safetensors"]))
        {
            mapped = file.Map("x");
        }

        mapped.mul_(3);
        Assert.Equal(3L * Large, mapped.sum(ScalarType.Float64).item<double>());
        using var again = SafetensorsFile.Open(Folder["a.safetensors"]);
        Assert.Equal(Large, again.Read("x").sum(ScalarType.Float64).item<double>());
    }

    [Fact]
    public void TensorsLieInThePythonPackagesOrder()
    {
        SafetensorsWriter.Write(Folder["a.safetensors"], [("b", zeros(1)), ("a", zeros(1)), ("half", zeros(1, ScalarType.Float16)), ("brain", zeros(1, ScalarType.BFloat16)), ("long", zeros(1, ScalarType.Int64)), ("flag", zeros(1, ScalarType.Bool))]);
        using var file = SafetensorsFile.Open(Folder["a.safetensors"]);
        Assert.Equal(["long", "a", "b", "brain", "half", "flag"], file.Names);
        Assert.Equal(0, BinaryPrimitives.ReadInt64LittleEndian(File.ReadAllBytes(Folder["a.safetensors"])) % 8);
    }

    [Fact]
    public void Float8IsReadAsFloat32()
    {
        byte[] bytes = [0x38, 0xB8, 0x01, 0x7E, 0x7F, 0x00];
        using var file = Open(
            """{"e4":{"dtype":"F8_E4M3","shape":[6],"data_offsets":[0,6]},"e5":{"dtype":"F8_E5M2","shape":[6],"data_offsets":[6,12]}}""",
            [.. bytes, 0x3C, 0xBC, 0x01, 0x7B, 0x7C, 0x00]);
        Assert.Equal([1f, -1f, MathF.ScaleB(1, -9), 448f, float.NaN, 0f], file.Read("e4").data<float>().ToArray());
        Assert.Equal([1f, -1f, MathF.ScaleB(1, -16), 57344f, float.PositiveInfinity, 0f], file.Read("e5").data<float>().ToArray());
    }

    [Fact]
    public void TypesWithoutACounterpartAreRefusedOnlyWhenRead()
    {
        using var file = Open("""{"u":{"dtype":"U32","shape":[1],"data_offsets":[0,4]}}""", new byte[4]);
        Assert.Equal("SafetensorsTypeNotSupported", Assert.Throws<NotSupportedByPeftException>(() => file.Read("u")).ErrorId);
    }

    [Fact]
    public void MetadataThatIsNullIsNone()
    {
        using var file = Open("""{"__metadata__":null,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}""", new byte[4]);
        Assert.Empty(file.Metadata);
        Assert.Equal(["a"], file.Names);
    }

    [Fact]
    public void AMissingTensorIsNamed()
    {
        using var file = Open("{}", []);
        var error = Assert.Throws<PeftException>(() => file.Read("absent"));
        Assert.Equal("TensorNotFound", error.ErrorId);
        Assert.Contains("absent", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("SafetensorsHeaderInvalid", "", 0)]
    [InlineData("SafetensorsHeaderInvalid", "[]", 0)]
    [InlineData("SafetensorsHeaderInvalid", "{", 0)]
    [InlineData("SafetensorsHeaderInvalid", "{} x", 0)]
    [InlineData("SafetensorsHeaderInvalid", """{"a":3}""", 0)]
    [InlineData("SafetensorsHeaderInvalid", """{"a":{"dtype":"F32","shape":[1]}}""", 4)]
    [InlineData("SafetensorsHeaderInvalid", """{"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}}""", 4)]
    [InlineData("SafetensorsHeaderInvalid", """{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}}""", 4)]
    [InlineData("SafetensorsHeaderInvalid", """{"__metadata__":{"a":1}}""", 0)]
    [InlineData("SafetensorsDuplicateName", """{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}""", 4)]
    [InlineData("SafetensorsDuplicateName", """{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}""", 4)]
    [InlineData("SafetensorsDuplicateName", """{"__metadata__":{"a":"1","a":"2"}}""", 0)]
    [InlineData("SafetensorsUnknownType", """{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}""", 4)]
    [InlineData("SafetensorsShapeInvalid", """{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}""", 4)]
    [InlineData("SafetensorsShapeInvalid", """{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}""", 4)]
    [InlineData("SafetensorsShapeInvalid", """{"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4]}}""", 4)]
    [InlineData("SafetensorsShapeOverflow", """{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}""", 4)]
    [InlineData("SafetensorsShapeOverflow", """{"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}}""", 0)]
    [InlineData("SafetensorsSizeMismatch", """{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}""", 4)]
    [InlineData("SafetensorsOffsetOutOfFile", """{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}""", 4)]
    [InlineData("SafetensorsOffsetOutOfFile", """{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}""", 4)]
    [InlineData("SafetensorsOffsetOutOfFile", """{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}}""", 4)]
    [InlineData("SafetensorsOffsetOutOfFile", """{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}""", 4)]
    [InlineData("SafetensorsTruncated", """{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 4)]
    [InlineData("SafetensorsOverlap", """{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}""", 8)]
    [InlineData("SafetensorsHole", """{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}""", 8)]
    [InlineData("SafetensorsTrailingData", """{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}""", 8)]
    public void EveryLieHasItsName(string errorId, string header, int dataLength)
    {
        var error = Assert.ThrowsAny<PeftException>(() => Open(header, new byte[dataLength]));
        Assert.Equal(errorId, error.ErrorId);
    }

    [Fact]
    public void AHeaderLengthThatLiesIsNamed()
    {
        var file = Bytes("{}", []);
        BinaryPrimitives.WriteUInt64LittleEndian(file, ulong.MaxValue);
        Assert.Equal("SafetensorsHeaderTooLong", OpenError(file));
        BinaryPrimitives.WriteUInt64LittleEndian(file, 3);
        Assert.Equal("SafetensorsTruncated", OpenError(file));
    }

    [Fact]
    public void JsonNestedAMillionDeepIsAnErrorAndNoCrash()
    {
        var deep = new string('[', 1_000_000);
        Assert.Equal("SafetensorsHeaderInvalid", OpenError(Bytes("""{"a":{"dtype":"F32","shape":""" + deep, [])));
        var path = Folder.Write("config.json", """{"a":""" + deep);
        Assert.Equal("JsonInvalid", Assert.Throws<PeftException>(() => JsonFile.Read(path)).ErrorId);
    }

    [Fact]
    public void AFileCutAnywhereIsAnError()
    {
        SafetensorsWriter.Write(Folder["a.safetensors"], [("x", ones(3)), ("y", ones([2, 2], ScalarType.Int16))]);
        var whole = File.ReadAllBytes(Folder["a.safetensors"]);
        for (var length = 0; length < whole.Length; length++)
        {
            var cut = whole[..length];
            Assert.StartsWith("Safetensors", OpenError(cut), StringComparison.Ordinal);
        }
    }

    [Fact]
    public void AFlippedBitIsReadOrRefusedButNeverCrashes()
    {
        SafetensorsWriter.Write(Folder["a.safetensors"], [("x", ones(3)), ("y", ones([2, 2], ScalarType.Int16))]);
        var whole = File.ReadAllBytes(Folder["a.safetensors"]);
        for (var i = 0; i < whole.Length * 8; i++)
        {
            byte[] flipped = [.. whole];
            flipped[i / 8] ^= (byte)(1 << (i % 8));
            var path = Folder.Write("flipped.safetensors", flipped);
            try
            {
                using var file = SafetensorsFile.Open(path);
                foreach (var name in file.Names)
                {
                    file.Read(name).Dispose();
                }
            }
            catch (PeftException error)
            {
                Assert.StartsWith("Safetensors", error.ErrorId, StringComparison.Ordinal);
            }
        }
    }

    [Fact]
    public void ShardsAreReadAsOne()
    {
        var files = SafetensorsWriter.WriteFolder(Folder.Path, [("a", full([10], 1f)), ("b", full([10], 2f)), ("c", full([10], 3f))], maxShardBytes: 80);
        Assert.Equal(["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"], files.Select(Path.GetFileName));
        using (var store = TensorStore.OpenFolder(Folder.Path))
        {
            Assert.Equal(["a", "b", "c"], store.Names.Order());
            Assert.Equal(30, store.Read("c").sum().item<float>());
            Assert.Equal(20, store.Map("b").sum().item<float>());
        }

        SafetensorsWriter.WriteFolder(Folder.Path, [("a", full([10], 4f))]);
        Assert.Equal(["model.safetensors"], Directory.GetFiles(Folder.Path).Select(Path.GetFileName));
        using var single = TensorStore.OpenFolder(Folder.Path);
        Assert.Equal(40, single.Read("a").sum().item<float>());
    }

    [Theory]
    [InlineData("ShardIndexInvalid", """{"weights":{}}""")]
    [InlineData("ShardIndexInvalid", """{"weight_map":{"a":"model.safetensors.index.json"}}""")]
    [InlineData("ShardIndexInvalid", """{"weight_map":{"a":"other.INDEX.json"}}""")]
    [InlineData("ShardMissing", """{"weight_map":{"a":"absent.safetensors"}}""")]
    [InlineData("ShardOutsideFolder", """{"weight_map":{"a":"../a.safetensors"}}""")]
    [InlineData("ShardOutsideFolder", """{"weight_map":{"a":3}}""")]
    [InlineData("ShardLacksTensor", """{"weight_map":{"b":"a.safetensors"}}""")]
    [InlineData("JsonInvalid", """{"weight_map":""")]
    [InlineData("JsonNotAnObject", "[]")]
    public void EveryLieOfAnIndexHasItsName(string errorId, string index)
    {
        SafetensorsWriter.Write(Folder["a.safetensors"], [("a", zeros(1))]);
        var path = Folder.Write("model.safetensors.index.json", index);
        Assert.Equal(errorId, Assert.ThrowsAny<PeftException>(() => TensorStore.OpenFile(path)).ErrorId);
    }

    [Fact]
    public void AFolderWithoutWeightsSaysWhatWasLookedFor()
    {
        var error = Assert.Throws<PeftException>(() => TensorStore.OpenFolder(Folder.Path));
        Assert.Equal("WeightsNotFound", error.ErrorId);
        Assert.Contains("pytorch_model.bin", error.Message, StringComparison.Ordinal);
        Assert.Equal("FileNotFound", Assert.Throws<PeftException>(() => SafetensorsFile.Open(Folder["absent.safetensors"])).ErrorId);
        Assert.Equal("FileUnreadable", Assert.Throws<PeftException>(() => SafetensorsFile.Open(Folder.Path)).ErrorId);
    }

    [Fact]
    public void TheSameNameTwiceIsNotWritten() =>
        Assert.Equal("SafetensorsDuplicateName", Assert.Throws<PeftException>(() => SafetensorsWriter.Write(Folder["a.safetensors"], [("a", zeros(1)), ("a", zeros(1))])).ErrorId);

    private static void AssertSame(Tensor expected, Tensor actual)
    {
        Assert.Equal(expected.dtype, actual.dtype);
        Assert.Equal(expected.shape, actual.shape);
        Assert.True(expected.bytes.SequenceEqual(actual.bytes));
    }

    private static byte[] Bytes(string header, byte[] data)
    {
        var json = Encoding.UTF8.GetBytes(header);
        var bytes = new byte[8 + json.Length + data.Length];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, json.Length);
        json.CopyTo(bytes, 8);
        data.CopyTo(bytes, 8 + json.Length);
        return bytes;
    }

    private SafetensorsFile Open(string header, byte[] data) => SafetensorsFile.Open(Folder.Write("made.safetensors", Bytes(header, data)));

    private string OpenError(byte[] bytes) => Assert.ThrowsAny<PeftException>(() => SafetensorsFile.Open(Folder.Write("broken.safetensors", bytes))).ErrorId;
}
