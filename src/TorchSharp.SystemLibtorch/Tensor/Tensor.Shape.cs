namespace TorchSharp;

public static partial class torch
{
    // Views, copies, picking and placing.
    public partial class Tensor
    {
        public Tensor alias() => Aten.alias.Tensor(this);

        public Tensor argwhere() => Aten.argwhere.Tensor(this);

        public Tensor as_strided(long[] size, long[] strides, long storageOffset = 0) => Aten.as_strided.Tensor(this, size, strides, storageOffset);

        public Tensor broadcast_to(params long[] shape) => Aten.broadcast_to.Tensor(this, shape);

        public Tensor[] chunk(long chunks, long dim = 0) => Aten.chunk.List(this, chunks, dim);

        public Tensor clone() => Aten.clone.Tensor(this);

        public Tensor contiguous() => Aten.contiguous.Tensor(this);

        public Tensor copy_(Tensor source, bool nonBlocking = false) => Aten.copy_.InPlace(this, source, nonBlocking);

        public Tensor detach() => Aten.detach.Tensor(this);

        public Tensor detach_() => Aten.detach_.InPlace(this);

        public Tensor diag(long diagonal = 0) => Aten.diag.Tensor(this, diagonal);

        public Tensor diag_embed(long offset = 0, long dim1 = -2, long dim2 = -1) => Aten.diag_embed.Tensor(this, offset, dim1, dim2);

        public Tensor diagonal(long offset = 0, long dim1 = 0, long dim2 = 1) => Aten.diagonal.Tensor(this, offset, dim1, dim2);

        public Tensor diff(long n = 1, long dim = -1, Tensor? prepend = null, Tensor? append = null) =>
            Aten.diff.Tensor(this, n, dim, prepend, append);

        public Tensor expand(params long[] sizes) => Aten.expand.Tensor(this, sizes);

        public Tensor expand(long[] sizes, bool isImplicit = false) => Aten.expand.Tensor(this, sizes, isImplicit);

        public Tensor expand(ReadOnlySpan<long> sizes, bool isImplicit = false) => Aten.expand.Tensor(this, sizes.ToArray(), isImplicit);

        public Tensor expand_as(Tensor other) => Aten.expand_as.Tensor(this, other);

        public Tensor flatten(long start_dim = 0, long end_dim = -1) => Aten.flatten_using_ints.Tensor(this, start_dim, end_dim);

        public Tensor flip(params long[] dims) => Aten.flip.Tensor(this, dims);

        public Tensor gather(long dim, Tensor index) => Aten.gather.Tensor(this, dim, index);

        public Tensor index_add(long dim, Tensor index, Tensor source, Scalar alpha) => Aten.index_add.Tensor(this, dim, index, source, alpha);

        public Tensor index_add_(long dim, Tensor index, Tensor source, Scalar alpha) => Aten.index_add_.InPlace(this, dim, index, source, alpha);

        public Tensor index_copy(long dim, Tensor index, Tensor source) => Aten.index_copy.Tensor(this, dim, index, source);

        public Tensor index_copy_(long dim, Tensor index, Tensor source) => Aten.index_copy_.InPlace(this, dim, index, source);

        public Tensor index_fill(long dim, Tensor index, Scalar value) => Aten.index_fill_int_Scalar.Tensor(this, dim, index, value);

        public Tensor index_fill_(long dim, Tensor index, Scalar value) => Aten.index_fill__int_Scalar.InPlace(this, dim, index, value);

        public Tensor index_select(long dim, Tensor index) => Aten.index_select.Tensor(this, dim, index);

        public Tensor kron(Tensor other) => Aten.kron.Tensor(this, other);

        public Tensor masked_fill(Tensor mask, Scalar value) => Aten.masked_fill_Scalar.Tensor(this, mask, value);

        public Tensor masked_fill_(Tensor mask, Scalar value) => Aten.masked_fill__Scalar.InPlace(this, mask, value);

        public Tensor masked_scatter(Tensor mask, Tensor value) => Aten.masked_scatter.Tensor(this, mask, value);

        public Tensor masked_scatter_(Tensor mask, Tensor value) => Aten.masked_scatter_.InPlace(this, mask, value);

        public Tensor masked_select(Tensor mask) => Aten.masked_select.Tensor(this, mask);

        public Tensor movedim(long[] source, long[] destination) => Aten.movedim_intlist.Tensor(this, source, destination);

        public Tensor narrow(long dim, long start, long length) => Aten.narrow.Tensor(this, dim, start, length);

        public Tensor nonzero() => Aten.nonzero.Tensor(this);

        public Tensor permute(params long[] permutation) => Aten.permute.Tensor(this, permutation);

        public Tensor ravel() => Aten.ravel.Tensor(this);

        public Tensor repeat(params long[] sizes) => Aten.repeat.Tensor(this, sizes);

        public Tensor repeat_interleave(long repeats, long? dim = null, long? output_size = null) =>
            Aten.repeat_interleave_self_int.Tensor(this, repeats, dim, output_size);

        public Tensor repeat_interleave(Tensor repeats, long? dim = null, long? output_size = null) =>
            Aten.repeat_interleave_self_Tensor.Tensor(this, repeats, dim, output_size);

        public Tensor reshape(params long[] shape) => Aten.reshape.Tensor(this, shape);

        public Tensor roll(long[] shifts) => Aten.roll.Tensor(this, shifts);

        public Tensor roll(long[] shifts, long[] dims) => Aten.roll.Tensor(this, shifts, dims);

        public Tensor roll(ReadOnlySpan<long> shifts, ReadOnlySpan<long> dims = default) => Aten.roll.Tensor(this, shifts.ToArray(), dims.ToArray());

        public Tensor scatter(long dim, Tensor index, Tensor src) => Aten.scatter_src.Tensor(this, dim, index, src);

        public Tensor scatter_(long dim, Tensor index, Tensor src) => Aten.scatter__src.InPlace(this, dim, index, src);

        public Tensor scatter_add(long dim, Tensor index, Tensor src) => Aten.scatter_add.Tensor(this, dim, index, src);

        public Tensor scatter_add_(long dim, Tensor index, Tensor src) => Aten.scatter_add_.InPlace(this, dim, index, src);

        public Tensor select(long dim, long index) => Aten.select_int.Tensor(this, dim, index);

        public Tensor[] split(params long[] sizes) => Aten.split_sizes.List(this, sizes);

        public Tensor[] split(long size, int dim = 0) => Aten.split_Tensor.List(this, size, dim);

        public Tensor[] split(long[] sizes, long dim = 0) => Aten.split_sizes.List(this, sizes, dim);

        public Tensor[] split(ReadOnlySpan<long> sizes, long dim = 0) => Aten.split_sizes.List(this, sizes.ToArray(), dim);

        public Tensor swapdims(long dim0, long dim1) => Aten.swapdims.Tensor(this, dim0, dim1);

        public Tensor t() => Aten.t.Tensor(this);

        public Tensor take(Tensor index) => Aten.take.Tensor(this, index);

        public Tensor take_along_dim(Tensor indices) => Aten.take_along_dim.Tensor(this, indices);

        public Tensor take_along_dim(Tensor indices, long dim) => Aten.take_along_dim.Tensor(this, indices, dim);

        public Tensor[] tensor_split(long size, long dim = 0) => Aten.tensor_split_sections.List(this, size, dim);

        public Tensor[] tensor_split(long[] sizes, long dim = 0) => Aten.tensor_split_indices.List(this, sizes, dim);

        public Tensor[] tensor_split(Tensor indices, long dim = 0) => Aten.tensor_split_tensor_indices_or_sections.List(this, indices, dim);

        public Tensor tile(long[] reps) => Aten.tile.Tensor(this, reps);

        public Tensor transpose(long dim0, long dim1) => Aten.transpose_int.Tensor(this, dim0, dim1);

        public Tensor transpose_(long dim0, long dim1) => Aten.transpose_.InPlace(this, dim0, dim1);

        public Tensor tril(long diagonal = 0) => Aten.tril.Tensor(this, diagonal);

        public Tensor tril_(long diagonal = 0) => Aten.tril_.Tensor(this, diagonal);

        public Tensor triu(long diagonal = 0) => Aten.triu.Tensor(this, diagonal);

        public Tensor triu_(long diagonal = 0) => Aten.triu_.Tensor(this, diagonal);

        public Tensor[] unbind(long dimension = 0) => Aten.unbind_int.List(this, dimension);

        public Tensor unfold(long dimension, long size, long step) => Aten.unfold.Tensor(this, dimension, size, step);

        public Tensor unsqueeze(long dim) => Aten.unsqueeze.Tensor(this, dim);

        public Tensor unsqueeze_(long dim) => Aten.unsqueeze_.InPlace(this, dim);

        public Tensor view(params long[] shape) => Aten.view.Tensor(this, shape);

        public Tensor view_as(Tensor other) => Aten.view_as.Tensor(this, other);

        public Tensor view_as_complex() => Aten.view_as_complex.Tensor(this);

        public Tensor view_as_real() => Aten.view_as_real.Tensor(this);
    }
}
