using System.Buffers.Binary;
using System.Globalization;
using System.IO.Compression;
using System.Text;
using Peft.Tensors;
using Peft.Tests.Golden;
using static TorchSharp.torch;

namespace Peft.Tests.Tensors;

public sealed class PickleTests : TensorFileTests
{
    [Fact]
    public void ATensorIsAViewOfItsStorage()
    {
        // A 2 by 3 view, transposed, that begins at the second of eight numbers.
        using var store = OpenZip(Program().Tensor("w", "FloatStorage", 8, 1, "3 2", "1 3"), Floats(8));
        Assert.Equal([3, 2], store.Entry("w").Shape);
        Assert.Equal([1f, 4f, 2f, 5f, 3f, 6f], store.Read("w").data<float>().ToArray());
    }

    [Fact]
    public void TheFormatBeforeTheZipContainerIsReadAsWell()
    {
        using var store = TensorStore.OpenFile(Folder.Write("a.bin", Legacy(Program().Tensor("w", "FloatStorage", 8, 2, "2 2", "2 1"), Floats(8))));
        Assert.Equal([2f, 3f, 4f, 5f], store.Read("w").data<float>().ToArray());
    }

    [Theory]
    [InlineData("os", "system")]
    [InlineData("builtins", "eval")]
    [InlineData("torch", "load")]
    [InlineData("torch.storage", "_load_from_bytes")]
    [InlineData("numpy.core.multiarray", "_reconstruct")]
    [InlineData("collections", "defaultdict")]
    public void AnythingButTensorsIsRefusedByName(string module, string name)
    {
        var error = Assert.Throws<PeftException>(() => OpenZip(Program().Raw($"c{module}\n{name}\n").Raw("(tR."), []));
        Assert.Equal("PickleRefused", error.ErrorId);
        Assert.Contains($"{module}.{name}", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("i")]
    [InlineData("o")]
    [InlineData("P")]
    [InlineData("\u0082")]
    public void InstructionsThatMakeObjectsAreRefused(string instruction) =>
        Assert.Equal("PickleRefused", Assert.Throws<PeftException>(() => OpenZip(Program().Raw(instruction), [])).ErrorId);

    [Theory]
    [InlineData(8, 0, "9", "1")]
    [InlineData(8, 8, "1", "1")]
    [InlineData(8, 0, "2 2", "8 1")]
    [InlineData(8, 0, "2", "-1")]
    [InlineData(8, -1, "2", "1")]
    [InlineData(8, 0, "3037000500 3037000500", "0 0")]
    [InlineData(8, 0, "1000000000", "0")]
    [InlineData(8, 0, "2", "9223372036854775807")]
    [InlineData(-1, 0, "1", "1")]
    public void AViewBeyondItsStorageIsRefused(long count, long offset, string shape, string strides) =>
        Assert.Equal("PickleInvalid", Assert.Throws<PeftException>(() => OpenZip(Program().Tensor("w", "FloatStorage", count, offset, shape, strides), Floats(8))).ErrorId);

    [Fact]
    public void AStorageShorterThanItsPickleSaysIsNoticed()
    {
        using var store = OpenZip(Program().Tensor("w", "FloatStorage", 8, 0, "8", "1"), Floats(4));
        Assert.Equal("PickleInvalid", Assert.Throws<PeftException>(() => store.Read("w")).ErrorId);
    }

    [Fact]
    public void AStorageThatClaimsMoreThanThereIsMemoryIsRefusedBeforeMemoryIsAsked()
    {
        using var store = OpenZip(Program().Tensor("w", "FloatStorage", 1L << 50, 0, "1125899906842624", "1"), Floats(4));
        Assert.Equal("PickleInvalid", Assert.Throws<PeftException>(() => store.Read("w")).ErrorId);
    }

    [Fact]
    public void AnElementTypeOfOneByteIsReadThroughItsTableWhateverTheStrides()
    {
        var program = Program().Raw("}(").Raw("U\u0001wctorch._utils\n_rebuild_tensor_v3\n((U\u0007storagectorch\nUntypedStorage\nU\u00010U\u0003cpuL4L\ntQ")
            .Raw("L0L\n(L2L\nL2L\nt(L1L\nL2L\nt\u0089}ctorch\nfloat8_e5m2\ntRu");
        using var store = OpenZip(program, [0x3C, 0x40, 0x42, 0x44]);
        Assert.Equal([1f, 3f, 2f, 4f], store.Read("w").data<float>().ToArray());
    }

    /// <summary>As deep as one would have to go to run out of stack, in a megabyte of pickle.</summary>
    [Fact]
    public void AWrapperAroundItselfIsRefused()
    {
        const int Depth = 100_000;
        const string Wrap = "ctorch._tensor\n_rebuild_from_type_v2\nq\u00010ctorch\nTensor\nq\u00020";
        var program = Program().Raw(Wrap).Raw("h\u0001").Raw(string.Concat(Enumerable.Repeat("(h\u0001h\u0002", Depth))).Raw(")").Raw(string.Concat(Enumerable.Repeat("t", Depth))).Raw("R");
        Assert.Equal("PickleRefused", Assert.Throws<PeftException>(() => OpenZip(program, [])).ErrorId);
    }

    [Fact]
    public void ADictionaryThatHoldsItselfManyTimesIsWalkedOnce()
    {
        var itself = string.Concat(Enumerable.Range(0, 1000).Select(static key => string.Create(CultureInfo.InvariantCulture, $"L{key}L\nh\u0001")));
        using var store = OpenZip(Program().Raw("}q\u0001(").Raw(itself).Raw("u(").Tensor("w", "FloatStorage", 4, 0, "4", "1"), Floats(4));
        Assert.Equal(["w"], store.Names);
    }

    [Theory]
    [InlineData(CompressionLevel.NoCompression)]
    [InlineData(CompressionLevel.Optimal)]
    public void AContainerThatLiesAboutASizeIsRefusedBeforeMemoryIsAsked(CompressionLevel level)
    {
        const uint Claimed = 0xFFFF_FFF0;
        var zip = Zip(Program().Tensor("w", "FloatStorage", Claimed / 4, 0, (Claimed / 4).ToString(CultureInfo.InvariantCulture), "1"), Floats(400), level);

        // The last entry of the table of contents; 46 bytes and its name before the end record of 22.
        var entry = zip.Length - 22 - 46 - "a/data/0".Length;
        BinaryPrimitives.WriteUInt32LittleEndian(zip.AsSpan(entry + 24), Claimed);
        using var store = TensorStore.OpenFile(Folder.Write("a.bin", zip));
        var error = Assert.Throws<PeftException>(() => store.Read("w"));
        Assert.Contains("claims", error.Message, StringComparison.Ordinal);
        Assert.Equal("PickleInvalid", error.ErrorId);
    }

    [Fact]
    public void AFileThatUnpacksToMuchMoreThanItsSizeIsRefusedBeforeMemoryIsAsked()
    {
        const int Elements = 80_000_000;
        var zip = Zip(Program().Tensor("w", "FloatStorage", Elements, 0, Elements.ToString(CultureInfo.InvariantCulture), "1"), new byte[4 * Elements], CompressionLevel.Fastest);
        Assert.True(zip.Length < 4 * Elements / 64);
        var before = GC.GetAllocatedBytesForCurrentThread();
        var error = Assert.Throws<PeftException>(() => TensorStore.OpenFile(Folder.Write("a.bin", zip)).Read("w"));
        Assert.Equal("PickleInvalid", error.ErrorId);
        Assert.Contains("claim", error.Message, StringComparison.Ordinal);
        Assert.True(GC.GetAllocatedBytesForCurrentThread() - before < 1 << 24);
    }

    [Theory]
    [InlineData("")]
    [InlineData("not a pickle at all")]
    [InlineData("PK\u0003\u0004 not a zip file")]
    [InlineData("\u0080\u0002.")]
    [InlineData("\u0080\u0002h\u0005.")]
    [InlineData("\u0080\u0002X\u00FF\u00FF\u00FF\u00FF")]
    public void WhatIsNoPickleIsAnError(string content) =>
        Assert.StartsWith("Pickle", Assert.Throws<PeftException>(() => TensorStore.OpenFile(Folder.Write("a.bin", Encoding.Latin1.GetBytes(content)))).ErrorId, StringComparison.Ordinal);

    [Fact]
    public void AFileCutOrFlippedAnywhereNeverCrashes()
    {
        byte[][] files = [Zip(Program().Tensor("w", "FloatStorage", 8, 0, "2 4", "4 1"), Floats(8)), Legacy(Program().Tensor("w", "FloatStorage", 8, 0, "2 4", "4 1"), Floats(8))];
        foreach (var whole in files)
        {
            for (var i = 0; i < whole.Length; i++)
            {
                ReadAll(whole[..i]);
                byte[] flipped = [.. whole];
                flipped[i] ^= 0x55;
                ReadAll(flipped);
            }
        }
    }

    /// <summary>Whatever pickles the goldens hold, old and new, good and evil.</summary>
    [Fact]
    public void EveryPickleOfTheGoldensIsReadOrRefusedForItsCode()
    {
        var folder = GoldenCases.DomainFolder("adapters");
        foreach (var path in folder is null ? [] : Directory.EnumerateFiles(folder, "*.bin", SearchOption.AllDirectories))
        {
            try
            {
                using var store = TensorStore.OpenFile(path);
                Assert.NotEmpty(store.Names);
                Assert.All(store.Names, name => Assert.True(store.Read(name, ScalarType.Float64).isfinite().all().item<bool>()));
            }
            catch (PeftException error)
            {
                Assert.Equal("PickleRefused", error.ErrorId);
            }
        }
    }

    [Theory]
    [InlineData(268_000_000, CompressionLevel.Optimal)]
    [InlineData(60_000_000, CompressionLevel.Optimal)]
    [InlineData(60_000_000, CompressionLevel.NoCompression)]
    public void APickleThatMakesMoreThanTensorsNeedIsRefusedBeforeItTakesMemory(int dictionaries, CompressionLevel level)
    {
        var zip = Zip(Program().Raw(new string('}', dictionaries)), [], level);
        var path = Folder.Write("bomb.bin", zip);
        var before = GC.GetTotalAllocatedBytes();
        Assert.Equal("PickleInvalid", Assert.Throws<PeftException>(() => TensorStore.OpenFile(path)).ErrorId);
        Assert.InRange(GC.GetTotalAllocatedBytes() - before, 0, 2L << 30);
    }

    /// <summary>What is memoised once and used by many calls grows with the square of the file.</summary>
    [Theory]
    [InlineData("ccollections\nOrderedDict\nq\u0002](", "N\u0085\u0085", "eq\u0001", "h\u0002h\u0001\u0085R")]
    [InlineData("ccollections\nOrderedDict\nq\u0002](", "NN\u0086", "eq\u0001", "h\u0002h\u0001\u0085R")]
    [InlineData("c_codecs\nencode\nq\u0002(V", "aaaa", "\nV" + "latin1\ntq\u0001", "h\u0002h\u0001R")]
    public void SharedArgumentsAreCountedForEveryCall(string begin, string item, string end, string call)
    {
        var items = item == "aaaa" ? 1000 : 16_000;
        var program = Program().Raw(begin).Raw(string.Concat(Enumerable.Repeat(item, items))).Raw(end).Raw(string.Concat(Enumerable.Repeat(call, 200_000)));
        Assert.Equal("PickleInvalid", Assert.Throws<PeftException>(() => OpenZip(program, [])).ErrorId);
    }

    [Theory]
    [InlineData("N)R")]
    [InlineData("ccollections\nOrderedDict\nNR")]
    [InlineData("ccollections\nOrderedDict\n]Na\u0085R")]
    [InlineData("ccollections\nOrderedDict\n])a\u0085R")]
    [InlineData("NNa")]
    [InlineData("N(Ne")]
    [InlineData("NNNs")]
    [InlineData("N(NNu")]
    [InlineData("}(Nu")]
    [InlineData("(Nd")]
    [InlineData("NN\u0093")]
    [InlineData("NQ")]
    [InlineData("NNb")]
    [InlineData("ctorch._utils\n_rebuild_tensor_v2\n(U\u0007storagectorch\nFloatStorage\nU\u00010U\u0003cpuL4L\ntQL0L\nN\u0085N\u0085\u0089}tR")]
    public void NullWhereSomethingIsNeededIsAnErrorOfOurs(string instructions) =>
        Assert.StartsWith("Pickle", Assert.Throws<PeftException>(() => OpenZip(Program().Raw(instructions), [])).ErrorId, StringComparison.Ordinal);

    private static PickleProgram Program() => new();

    private static byte[] Floats(int count)
    {
        var bytes = new byte[count * 4];
        for (var i = 0; i < count; i++)
        {
            BinaryPrimitives.WriteSingleLittleEndian(bytes.AsSpan(i * 4), i);
        }

        return bytes;
    }

    private static byte[] Zip(PickleProgram program, byte[] storage, CompressionLevel level = CompressionLevel.NoCompression)
    {
        using var stream = new MemoryStream();
        using (var zip = new ZipArchive(stream, ZipArchiveMode.Create, leaveOpen: true))
        {
            foreach ((var name, var content) in ((string, byte[])[])[("a/data.pkl", program.End()), ("a/byteorder", "little"u8.ToArray()), ("a/data/0", storage)])
            {
                using var entry = zip.CreateEntry(name, level).Open();
                entry.Write(content);
            }
        }

        return stream.ToArray();
    }

    private static byte[] Legacy(PickleProgram program, byte[] storage)
    {
        var count = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(count, storage.Length / 4);
        return
        [
            .. Program().Raw("\u008a\u000a\u006c\u00fc\u009c\u0046\u00f9\u0020\u006a\u00a8\u0050\u0019").EndBare(),
            .. Program().Raw("M\u00e9\u0003").EndBare(),
            .. Program().Raw("}").EndBare(),
            .. program.End(),
            .. Program().Raw("]U\u00010a").EndBare(),
            .. count,
            .. storage,
        ];
    }

    private void ReadAll(byte[] bytes)
    {
        try
        {
            using var store = TensorStore.OpenFile(Folder.Write("broken.bin", bytes));
            foreach (var name in store.Names)
            {
                store.Read(name).Dispose();
            }
        }
        catch (PeftException error)
        {
            Assert.StartsWith("Pickle", error.ErrorId, StringComparison.Ordinal);
        }
    }

    private TensorStore OpenZip(PickleProgram program, byte[] storage) => TensorStore.OpenFile(Folder.Write("a.bin", Zip(program, storage)));

    /// <summary>Writes the instructions of a pickle that fills a dictionary.</summary>
    private sealed class PickleProgram
    {
        private readonly StringBuilder _text = new("\u0080\u0002");
        private bool _open;

        public PickleProgram Raw(string instructions)
        {
            _text.Append(instructions);
            return this;
        }

        public PickleProgram Tensor(string name, string storage, long count, long offset, string shape, string strides)
        {
            _text.Append(_open ? string.Empty : "}(");
            _open = true;
            Text(name);
            return Raw("ctorch._utils\n_rebuild_tensor_v2\n((").Text("storage").Raw($"ctorch\n{storage}\n").Text("0").Text("cpu").Long(count).Raw("tQ")
                .Long(offset).Tuple(shape).Tuple(strides).Raw("\u0089}tR");
        }

        public byte[] End() => Raw(_open ? "u." : ".").Bytes();

        public byte[] EndBare() => Raw(".").Bytes();

        private byte[] Bytes() => Encoding.Latin1.GetBytes(_text.ToString());

        private PickleProgram Text(string text) => Raw($"U{(char)text.Length}{text}");

        private PickleProgram Long(long value) => Raw(string.Create(CultureInfo.InvariantCulture, $"L{value}L\n"));

        private PickleProgram Tuple(string values)
        {
            Raw("(");
            foreach (var value in values.Split(' '))
            {
                Long(long.Parse(value, CultureInfo.InvariantCulture));
            }

            return Raw("t");
        }
    }
}
