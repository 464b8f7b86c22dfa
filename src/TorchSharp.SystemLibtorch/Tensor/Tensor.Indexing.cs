using System.Runtime.CompilerServices;

namespace TorchSharp;

public static partial class torch
{
    public partial class Tensor
    {
        [IndexerName("TensorItems")]
        public Tensor this[params TensorIndex[] indices]
        {
            get => index(indices);
            set => index_put_(value, indices);
        }

        [IndexerName("TensorItems")]
        public Tensor this[params Tensor[] indices]
        {
            get => index(indices);
            set => index_put_(value, indices);
        }

        [IndexerName("TensorItems")]
        public Tensor this[long i1]
        {
            get => index([i1]);
            set => index_put_(value, [TensorIndex.Single(i1)]);
        }

        [IndexerName("TensorItems")]
        public Tensor this[long i1, long i2]
        {
            get => index([i1, i2]);
            set => index_put_(value, [TensorIndex.Single(i1), i2]);
        }

        [IndexerName("TensorItems")]
        public Tensor this[long i1, long i2, long i3]
        {
            get => index([i1, i2, i3]);
            set => index_put_(value, [TensorIndex.Single(i1), i2, i3]);
        }

        [IndexerName("TensorItems")]
        public Tensor this[long i1, long i2, long i3, long i4]
        {
            get => index([i1, i2, i3, i4]);
            set => index_put_(value, [TensorIndex.Single(i1), i2, i3, i4]);
        }

        [IndexerName("TensorItems")]
        public Tensor this[params long[] indices]
        {
            get => index(indices.Select(TensorIndex (i) => i).ToArray());
            set => index_put_(value, indices.Select(TensorIndex (i) => i).ToArray());
        }

        /// <summary>A view where positions and ranges suffice, a copy where tensors pick the elements.</summary>
        public Tensor index(params TensorIndex[] indices)
        {
            var (view, tensors) = Slice(indices);
            if (tensors is null)
            {
                return view;
            }

            using (view)
            {
                return Aten.index_Tensor.Tensor(view, Argument.OptionalList(tensors));
            }
        }

        public Tensor index(params Tensor[] indices) => index(indices.Select(TensorIndex.Tensor).ToArray());

        public Tensor index_put_(Tensor value, params TensorIndex[] indices) => index_put_(value, indices, accumulate: false);

        public Tensor index_put_(Tensor value, TensorIndex[] indices, bool accumulate = false)
        {
            var (view, tensors) = Slice(indices);
            using (view)
            {
                if (tensors is not null)
                {
                    Aten.index_put_.InPlace(view, Argument.OptionalList(tensors), value, accumulate);
                }
                else
                {
                    view.copy_(value);
                }
            }

            return this;
        }

        public Tensor index_put_(Tensor value, params Tensor[] indices) => index_put_(value, indices, accumulate: false);

        public Tensor index_put_(Tensor value, Tensor[] indices, bool accumulate = false) =>
            index_put_(value, indices.Select(TensorIndex.Tensor).ToArray(), accumulate);

        public Tensor index_put_(Scalar value, params TensorIndex[] indices)
        {
            using var scalar = full([], value, dtype, device);
            return index_put_(scalar, indices);
        }

        public Tensor index_put_(Scalar value, params Tensor[] indices) =>
            index_put_(value, indices.Select(TensorIndex.Tensor).ToArray());

        /// <summary>Applies all that yields views; what tensors pick is left, one place for each dimension of the view up to the last of them.</summary>
        private (Tensor View, Tensor?[]? Tensors) Slice(TensorIndex[] indices)
        {
            var view = this;
            var dim = 0;
            List<Tensor?>? tensors = null;
            for (var i = 0; i < indices.Length; i++)
            {
                var index = indices[i];
                switch (index.Kind)
                {
                    case TensorIndex.IndexKind.Single:
                        view = Next(view, view.select(dim, index.Start!.Value));
                        break;
                    case TensorIndex.IndexKind.Slice:
                        view = Next(view, Aten.slice_Tensor.Tensor(view, dim++, index.Start, index.Stop, index.Step ?? 1));
                        break;
                    case TensorIndex.IndexKind.None:
                        view = Next(view, view.unsqueeze(dim++));
                        break;
                    case TensorIndex.IndexKind.Ellipsis:
                        dim = (int)view.Dimensions - indices.Skip(i + 1).Sum(Consumed);
                        break;
                    case TensorIndex.IndexKind.Bool:
                        view = Next(view, view.unsqueeze(dim));
                        Place(ref tensors, dim++, tensor(index.Start != 0 ? [0L] : Array.Empty<long>()));
                        break;
                    default:
                        Place(ref tensors, dim, index.Indices!);
                        dim += Consumed(index);
                        break;
                }
            }

            return (ReferenceEquals(view, this) ? alias() : view, tensors?.ToArray());
        }

        private static int Consumed(TensorIndex index) => index.Kind switch
        {
            TensorIndex.IndexKind.Single or TensorIndex.IndexKind.Slice => 1,
            TensorIndex.IndexKind.Tensor => index.Indices!.dtype is ScalarType.Bool or ScalarType.Byte ? (int)index.Indices.Dimensions : 1,
            _ => 0,
        };

        // A mask stands in one place however many dimensions it covers, so the places after it move up.
        private static void Place(ref List<Tensor?>? tensors, int dim, Tensor indices)
        {
            tensors ??= [];
            var covered = tensors.Sum(t => t is null ? 1 : Consumed(TensorIndex.Tensor(t)));
            for (; covered < dim; covered++)
            {
                tensors.Add(null);
            }

            tensors.Add(indices);
        }

        // Disposes the view on which the next one was made, unless it is this tensor itself.
        private Tensor Next(Tensor view, Tensor next)
        {
            if (!ReferenceEquals(view, this))
            {
                view.Dispose();
            }

            return next;
        }
    }
}
