namespace Peft.Training.Data;

/// <summary>Stops a long reading between two rows, and tells how far it is.</summary>
/// <param name="onProgress">Hears now and then how many of the file's bytes are read.</param>
/// <param name="cancellation">Stops it.</param>
internal sealed class ReadingWatch(Action<long, long>? onProgress, CancellationToken cancellation)
{
    private int _rows;

    /// <summary>Call it for each row.</summary>
    public void Row(StreamReader reader)
    {
        cancellation.ThrowIfCancellationRequested();
        if (++_rows % TrainingDataset.RowsPerReport == 0)
        {
            onProgress?.Invoke(reader.BaseStream.Position, reader.BaseStream.Length);
        }
    }
}
