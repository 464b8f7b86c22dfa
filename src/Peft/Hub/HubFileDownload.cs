using System.Buffers;
using System.Globalization;
using System.Net;
using System.Security.Cryptography;
using System.Text;
using Peft.Files;

namespace Peft.Hub;

/// <summary>
/// Brings one file into the cache. It grows under another name, goes on where it was cut off, also in another session, and takes its name only
/// when its hash is right.
/// </summary>
internal sealed class HubFileDownload : IDisposable
{
    private const int PieceBytes = 1 << 18;

    private readonly HubConnection _connection;
    private readonly HubFile _file;
    private readonly string _source;
    private readonly string _blob;
    private readonly FileStream _stream;
    private readonly Action<long> _onBytes;
    private IncrementalHash _hash;
    private bool _wasDamaged;

    private HubFileDownload(HubConnection connection, HubFile file, string source, string blob, Action<long> onBytes)
    {
        _connection = connection;
        _file = file;
        _source = source;
        _blob = blob;
        _onBytes = onBytes;
        _stream = new FileStream(blob + ".incomplete", FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read, 1);
        _hash = NewHash();
    }

    /// <summary>Brings a file.</summary>
    /// <param name="connection">The hub.</param>
    /// <param name="file">The file.</param>
    /// <param name="source">Where it is, below the hub's address.</param>
    /// <param name="blob">Where it belongs. The caller keeps others from bringing it meanwhile.</param>
    /// <param name="onBytes">Hears how many bytes came, or, below 0, had come in vain.</param>
    /// <param name="cancellation">Ends it; what came is kept.</param>
    /// <exception cref="PeftException"><c>HubFileDamaged</c>, <c>DiskFull</c>, <c>FileWriteFailed</c>, and those of <see cref="HubConnection"/>.</exception>
    public static async Task RunAsync(HubConnection connection, HubFile file, string source, string blob, Action<long> onBytes, CancellationToken cancellation)
    {
        try
        {
            using (var download = new HubFileDownload(connection, file, source, blob, onBytes))
            {
                await download.ResumeAsync(cancellation).ConfigureAwait(false);
                await connection.RetryAsync(() => download.TryAsync(cancellation), () => download._stream.Length, cancellation).ConfigureAwait(false);
                Disk.Sync(download._stream);
            }

            Disk.Move(blob + ".incomplete", blob);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw AtomicFile.WriteError(blob, error);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _hash.Dispose();
        _stream.Dispose();
    }

    /// <summary>Takes up what an earlier try left.</summary>
    private async Task ResumeAsync(CancellationToken cancellation)
    {
        if (_stream.Length > _file.Size)
        {
            _stream.SetLength(0);
        }

        var piece = ArrayPool<byte>.Shared.Rent(PieceBytes);
        try
        {
            int count;
            while ((count = await _stream.ReadAsync(piece, cancellation).ConfigureAwait(false)) > 0)
            {
                _hash.AppendData(piece, 0, count);
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(piece);
        }

        _onBytes(_stream.Length);
    }

    private async Task<bool> TryAsync(CancellationToken cancellation)
    {
        if (_stream.Length < _file.Size)
        {
            await ReceiveAsync(cancellation).ConfigureAwait(false);
        }

        if (_stream.Length < _file.Size)
        {
            throw new HubInterruption(string.Create(CultureInfo.InvariantCulture, $"'{_file.Path}' was cut off at {_stream.Length:N0} of {_file.Size:N0} bytes"));
        }

        var isRight = _stream.Length == _file.Size && Convert.ToHexStringLower(_hash.GetCurrentHash()) == _file.Hash;
        if (isRight)
        {
            return true;
        }

        StartAnew();
        if (_wasDamaged)
        {
            throw new PeftException("HubFileDamaged", $"'{_file.Path}' came twice with other content than the hub lists (its hash is wrong), and was thrown away.")
            {
                Target = _file.Path,
                RecommendedAction = "Try again later; a proxy on the way may change files.",
            };
        }

        _wasDamaged = true;
        throw new HubInterruption($"'{_file.Path}' came with a wrong hash") { Wait = TimeSpan.Zero };
    }

    private async Task ReceiveAsync(CancellationToken cancellation)
    {
        using var response = await _connection.GetAsync(_source, _stream.Length, cancellation).ConfigureAwait(false);
        var continues = response.StatusCode == HttpStatusCode.PartialContent && response.Content.Headers.ContentRange is { From: { } from } && from == _stream.Length;
        if (!continues && _stream.Length > 0)
        {
            StartAnew();
        }

        if (response.StatusCode != HttpStatusCode.OK && !continues)
        {
            throw new HubInterruption($"it sent another part of '{_file.Path}' than was asked for") { Wait = TimeSpan.Zero };
        }

        var content = await response.Content.ReadAsStreamAsync(cancellation).ConfigureAwait(false);
        await using (content.ConfigureAwait(false))
        {
            await CopyAsync(content, cancellation).ConfigureAwait(false);
        }
    }

    private async Task CopyAsync(Stream content, CancellationToken cancellation)
    {
        var piece = ArrayPool<byte>.Shared.Rent(PieceBytes);
        try
        {
            int count;
            while (_stream.Length <= _file.Size && (count = await _connection.StepAsync(token => content.ReadAsync(piece, token), cancellation).ConfigureAwait(false)) > 0)
            {
                await _stream.WriteAsync(piece.AsMemory(0, count), cancellation).ConfigureAwait(false);
                _hash.AppendData(piece, 0, count);
                _onBytes(count);
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(piece);
        }
    }

    private void StartAnew()
    {
        _onBytes(-_stream.Length);
        _stream.SetLength(0);
        _hash.Dispose();
        _hash = NewHash();
    }

    /// <summary>What the hub calls a file: SHA-256 of its bytes, or as git does, SHA-1 of its length and its bytes.</summary>
    private IncrementalHash NewHash()
    {
        if (_file.IsLargeFile)
        {
            return IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        }

#pragma warning disable CA5350 // Git's name for a file's content; the hub gives no other for small files.
        var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA1);
#pragma warning restore CA5350
        hash.AppendData(Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"blob {_file.Size}\0")));
        return hash;
    }
}
