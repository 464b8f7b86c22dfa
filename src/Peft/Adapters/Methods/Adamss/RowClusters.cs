using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Adamss;

/// <summary>
/// Rows of a matrix in clusters of neighbours, by Lloyd's algorithm (1982) from rows that a fixed seed chooses. Which row is in which cluster isn't in an
/// adapter's file, so the clusters are those of scikit-learn's <c>KMeans(init="random", n_init=1, max_iter=10, random_state=123456789)</c> (1.3 or later), by which
/// PEFT finds them.
/// </summary>
internal sealed class RowClusters
{
    private const uint Seed = 123456789;
    private const int MostIterations = 10;
    private const double Tolerance = 1e-4;

    private readonly double[][] _rows;
    private readonly int[] _labels;
    private double[][] _centers;

    private RowClusters(double[][] rows, int count)
    {
        _rows = rows;
        _labels = new int[rows.Length];
        _centers = [.. new MersenneTwister(Seed).Choose(rows.Length, count).Select(row => (double[])rows[row].Clone())];
    }

    /// <summary>Numbers of the rows of each cluster, ascending.</summary>
    /// <param name="matrix">[rows, width], float32.</param>
    /// <param name="count">Clusters, at most one for each row.</param>
    public static long[][] Of(Tensor matrix, int count)
    {
        var width = (int)matrix.size(1);
        using var onHost = matrix.cpu().contiguous();
        double[][] rows = [.. onHost.data<float>().ToArray().Chunk(width).Select(static row => Array.ConvertAll(row, static value => (double)value))];
        var clusters = new RowClusters(rows, (int)Math.Min(count, matrix.size(0)));
        clusters.Run(clusters.Spread() * Tolerance);
        var last = clusters._labels.Max();
        return [.. Enumerable.Range(0, last + 1).Select(cluster => clusters._labels.Index().Where(entry => entry.Item == cluster).Select(static entry => (long)entry.Index).ToArray())];
    }

    /// <summary>The mean of the columns' variances.</summary>
    private double Spread() => Enumerable.Range(0, _rows[0].Length).Average(column =>
    {
        var mean = _rows.Average(row => row[column]);
        return _rows.Average(row => (row[column] - mean) * (row[column] - mean));
    });

    private void Run(double tolerance)
    {
        for (var i = 0; i < MostIterations; i++)
        {
            var before = (int[])_labels.Clone();
            Label();
            var moved = Move();
            if (i > 0 && before.AsSpan().SequenceEqual(_labels))
            {
                return;
            }

            if (moved <= tolerance)
            {
                break;
            }
        }

        Label();
    }

    private void Label()
    {
        for (var i = 0; i < _rows.Length; i++)
        {
            _labels[i] = Enumerable.Range(0, _centers.Length).MinBy(cluster => Distance(_rows[i], _centers[cluster]));
        }
    }

    /// <summary>Moves every center to the mean of its rows, and one without rows to the row that is farthest from its own.</summary>
    /// <returns>How far they moved, squared and added up.</returns>
    private double Move()
    {
        var width = _rows[0].Length;
        double[][] sums = [.. _centers.Select(_ => new double[width])];
        var counts = new int[_centers.Length];
        for (var i = 0; i < _rows.Length; i++)
        {
            Add(sums[_labels[i]], _rows[i], 1);
            counts[_labels[i]]++;
        }

        var empty = counts.Index().Where(static entry => entry.Item == 0).Select(static entry => entry.Index).ToArray();
        int[] farthest = [.. Enumerable.Range(0, _rows.Length).OrderByDescending(row => Distance(_rows[row], _centers[_labels[row]])).Take(empty.Length)];
        foreach (var (cluster, row) in empty.Zip(farthest))
        {
            Add(sums[_labels[row]], _rows[row], -1);
            counts[_labels[row]]--;
            Add(sums[cluster], _rows[row], 1);
            counts[cluster] = 1;
        }

        double[][] centers = [.. sums.Select((sum, cluster) => Array.ConvertAll(sum, value => value / Math.Max(1, counts[cluster])))];
        var moved = centers.Select((center, cluster) => Distance(center, _centers[cluster])).Sum();
        _centers = centers;
        return moved;
    }

    private static void Add(double[] sum, double[] row, double sign)
    {
        for (var i = 0; i < sum.Length; i++)
        {
            sum[i] += sign * row[i];
        }
    }

    private static double Distance(double[] one, double[] other)
    {
        var sum = 0.0;
        for (var i = 0; i < one.Length; i++)
        {
            sum += (one[i] - other[i]) * (one[i] - other[i]);
        }

        return sum;
    }
}
