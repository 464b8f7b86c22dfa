namespace Peft.Files;

/// <summary>What is packed in another stream, read only. Whatever an unpacker stumbles over in damaged bytes becomes an <see cref="InvalidDataException"/>.</summary>
/// <param name="unpacker">The unpacker; it is disposed of with the stream.</param>
internal sealed class UnpackedStream(Stream unpacker) : Stream
{
    /// <inheritdoc/>
    public override bool CanRead => true;

    /// <inheritdoc/>
    public override bool CanSeek => false;

    /// <inheritdoc/>
    public override bool CanWrite => false;

    /// <inheritdoc/>
    public override long Length => throw new NotSupportedException();

    /// <inheritdoc/>
    public override long Position
    {
        get => throw new NotSupportedException();
        set => throw new NotSupportedException();
    }

    /// <inheritdoc/>
    public override int Read(byte[] buffer, int offset, int count)
    {
        try
        {
            return unpacker.Read(buffer, offset, count);
        }
        catch (Exception error) when (!CompressedFile.IsDamage(error) && error is not (IOException or OutOfMemoryException))
        {
            throw new InvalidDataException(error.Message, error);
        }
    }

    /// <inheritdoc/>
    public override void Flush()
    {
        // Nothing is written.
    }

    /// <inheritdoc/>
    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    /// <inheritdoc/>
    public override void SetLength(long value) => throw new NotSupportedException();

    /// <inheritdoc/>
    public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            unpacker.Dispose();
        }

        base.Dispose(disposing);
    }
}
