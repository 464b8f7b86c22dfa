namespace TorchSharp;

public static partial class torch
{
    /// <summary>One place of an index: a position, a range, a new dimension, an ellipsis, a truth value or a tensor.</summary>
    public readonly struct TensorIndex
    {
        public static TensorIndex Ellipsis = new(IndexKind.Ellipsis);
        public static TensorIndex None = new(IndexKind.None);
        public static TensorIndex Null = None;
        public static TensorIndex Colon = Slice();

        private TensorIndex(IndexKind kind, long? start = null, long? stop = null, long? step = null, torch.Tensor? tensor = null)
        {
            Kind = kind;
            Start = start;
            Stop = stop;
            Step = step;
            Indices = tensor;
        }

        internal enum IndexKind
        {
            None,
            Ellipsis,
            Single,
            Bool,
            Slice,
            Tensor,
        }

        internal IndexKind Kind { get; }

        internal long? Start { get; }

        internal long? Stop { get; }

        internal long? Step { get; }

        internal torch.Tensor? Indices { get; }

        public static TensorIndex Single(long? index) => new(IndexKind.Single, index ?? 0);

        public static TensorIndex Bool(bool value) => new(IndexKind.Bool, value ? 1 : 0);

        public static TensorIndex Slice(long? start = null, long? stop = null, long? step = null) => new(IndexKind.Slice, start, stop, step);

        public static TensorIndex Tensor(torch.Tensor tensor) => new(IndexKind.Tensor, tensor: tensor);

        public static implicit operator TensorIndex(long value) => Single(value);

        /// <summary>Never meant to run: it lets the compiler prefer an index over a tensor where a literal could be either.</summary>
        public static implicit operator torch.Tensor(TensorIndex value) => throw new InvalidOperationException("Should not be called.");

        public static implicit operator TensorIndex((int? start, int? end) range) => Slice(range.start, range.end);

        public static implicit operator TensorIndex(Range range) => Slice(
            FromStart(range.Start),
            range.End.Equals(Index.End) ? null : FromStart(range.End));

        public static implicit operator TensorIndex(Index index) => Single(FromStart(index));

        private static long FromStart(Index index) => index.IsFromEnd ? -index.Value : index.Value;
    }
}
