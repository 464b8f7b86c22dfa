using System.Text;

namespace Peft.Files;

/// <summary>
/// Records in a file of this process alone, read by their number: what is too large for the memory. The file is gone with the object, however the process ends.
/// Its folder is <c>PEFT_CACHE</c>, or <c>Peft/cache</c> among the user's local application data. Records may be read on several threads once all are written.
/// </summary>
internal sealed class RecordFile : IDisposable
{
    private const int BufferBytes = 1 << 20;

    private readonly FileStream _stream;
    private readonly BinaryWriter _writer;
    private readonly List<long> _ends = [];
    private bool _isWritten;

    /// <summary>Opens an empty file.</summary>
    /// <exception cref="IOException">The folder can't be written.</exception>
    public RecordFile()
    {
        Directory.CreateDirectory(Folder);
        var path = Path.Combine(Folder, Path.GetRandomFileName());
        _stream = new FileStream(path, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.Delete, BufferBytes, FileOptions.DeleteOnClose);
        if (!OperatingSystem.IsWindows())
        {
            // Unix keeps what is open, and Windows deletes what a process that was killed had open so.
            File.Delete(path);
        }

        _writer = new BinaryWriter(_stream, Encoding.UTF8, leaveOpen: true);
    }

    /// <summary>Where such files lie.</summary>
    public static string Folder => Environment.GetEnvironmentVariable("PEFT_CACHE") is { Length: > 0 } given
        ? Path.GetFullPath(given)
        : Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData, Environment.SpecialFolderOption.DoNotVerify), "Peft", "cache");

    /// <summary>The number of records.</summary>
    public int Count => _ends.Count;

    /// <summary>Bytes on the disk.</summary>
    public long Length => _ends.Count == 0 ? 0 : _ends[^1];

    /// <summary>Adds a record.</summary>
    /// <param name="write">Writes it.</param>
    public void Add(Action<BinaryWriter> write)
    {
        write(_writer);
        _ends.Add(_stream.Position);
    }

    /// <summary>Says that all records are written.</summary>
    public RecordFile Written()
    {
        _stream.Flush();
        _ends.TrimExcess();
        _isWritten = true;
        return this;
    }

    /// <summary>Reads a record.</summary>
    /// <typeparam name="T">What it is.</typeparam>
    /// <param name="index">Its number, counted from 0.</param>
    /// <param name="read">Reads it.</param>
    public T Read<T>(int index, Func<BinaryReader, T> read)
    {
        if (!_isWritten)
        {
            throw new InvalidOperationException("The records are still being written.");
        }

        var start = index == 0 ? 0 : _ends[index - 1];
        var bytes = new byte[_ends[index] - start];
        for (var done = 0; done < bytes.Length;)
        {
            var count = RandomAccess.Read(_stream.SafeFileHandle, bytes.AsSpan(done), start + done);
            done += count > 0 ? count : throw new EndOfStreamException("The cache on the disk is shorter than it was written.");
        }

        using var reader = new BinaryReader(new MemoryStream(bytes), Encoding.UTF8);
        return read(reader);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _writer.Dispose();
        _stream.Dispose();
    }
}
