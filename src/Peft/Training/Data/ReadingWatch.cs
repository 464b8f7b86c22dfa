namespace Peft.Training.Data;

/// <summary>Stops a long reading between two rows, and tells how far it is.</summary>
/// <param name="onProgress">Hears now and then how many of the file's bytes are read.</param>
/// <param name="cancellation">Stops it.</param>
internal sealed class ReadingWatch(Action<long, long>? onProgress, CancellationToken cancellation)
{
    private int _rows;

    /// <summary>Call it for each row.</summary>
    /// <param name="stream">The file's bytes; null where rows come from no file.</param>
    public void Row(Stream? stream)
    {
        cancellation.ThrowIfCancellationRequested();
        if (++_rows % TrainingDataset.RowsPerReport == 0 && stream is not null)
        {
            onProgress?.Invoke(stream.Position, stream.Length);
        }
    }
}
