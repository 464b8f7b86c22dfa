namespace TorchSharp;

// Functions over several tensors, and those without a counterpart among the tensor's members.
public static partial class torch
{
    public static bool allclose(Tensor tensor, Tensor target, double rtol = 1E-05, double atol = 1E-08, bool equal_nan = false) =>
        tensor.allclose(target, rtol, atol, equal_nan);

    public static IList<Tensor> broadcast_tensors(params Tensor[] tensors) => Aten.broadcast_tensors.List(tensors);

    public static Tensor cat(IList<Tensor> tensors, long dim = 0) => cat(tensors.ToArray(), dim);

    public static Tensor cat(Tensor[] tensors, long dim = 0) => Aten.cat.Tensor(tensors, dim);

    public static Tensor cat(ReadOnlySpan<Tensor> tensors, long dim = 0) => cat(tensors.ToArray(), dim);

    public static Tensor concat(IList<Tensor> tensors, long dim = 0) => cat(tensors, dim);

    public static Tensor concat(Tensor[] tensors, long dim = 0) => cat(tensors, dim);

    public static Tensor concat(ReadOnlySpan<Tensor> tensors, long dim = 0) => cat(tensors, dim);

    public static Tensor complex(Tensor real, Tensor imag) => Aten.complex.Tensor(real, imag);

    public static Tensor einsum(string equation, params Tensor[] tensors) => Aten.einsum.Tensor(equation, tensors);

    public static Tensor gather(Tensor input, long dim, Tensor index, bool sparse_grad = false) =>
        Aten.gather.Tensor(input, dim, index, sparse_grad);

    public static Tensor hstack(params Tensor[] tensors) => Aten.hstack.Tensor(tensors);

    public static Tensor hstack(IList<Tensor> tensors) => hstack(tensors.ToArray());

    public static Tensor[] meshgrid(IEnumerable<Tensor> tensors, string indexing = "ij") =>
        Aten.meshgrid_indexing.List(tensors.ToArray(), indexing);

    public static Tensor movedim(Tensor input, long source, long destination) => input.movedim([source], [destination]);

    public static Tensor norm(Tensor input) => input.norm();

    public static Tensor norm(Tensor input, float p = 2) => input.norm(p);

    public static Tensor norm(Tensor input, int dimension, bool keepdim = false, float p = 2) => input.norm(dimension, keepdim, p);

    public static Tensor polar(Tensor abs, Tensor angle) => Aten.polar.Tensor(abs, angle);

    public static Tensor block_diag(params Tensor[] tensors) => Aten.block_diag.Tensor(tensors);

    public static Tensor searchsorted(Tensor sorted_sequence, Tensor values, bool out_int32 = false, bool right = false, Tensor? sorter = null) =>
        Aten.searchsorted_Tensor.Tensor(sorted_sequence, values, out_int32, right, default, sorter);

    public static Tensor softmax(Tensor input, int dim, ScalarType? dtype = null) => input.softmax(dim, dtype);

    public static Tensor[] split(Tensor tensor, long[] split_size_or_sections, long dim = 0) => tensor.split(split_size_or_sections, dim);

    public static Tensor stack(IEnumerable<Tensor> tensors, long dim = 0) => Aten.stack.Tensor(tensors.ToArray(), dim);

    public static Tensor[] unbind(Tensor input, long dim = 0) => input.unbind(dim);

    public static Tensor[] unbind(Tensor tensor, int dim = 0) => tensor.unbind(dim);

    public static Tensor view_as_complex(Tensor input) => input.view_as_complex();

    public static Tensor vstack(Tensor[] tensors) => Aten.vstack.Tensor(tensors);

    public static Tensor vstack(IList<Tensor> tensors) => vstack(tensors.ToArray());

    public static Tensor where(Tensor condition, Tensor x, Tensor y) => x.where(condition, y);

    public static Tensor[] where(Tensor condition) => Aten.where.List(condition);

    public static Tensor nanmean(Tensor input, int? dim = null, bool keepdim = false, ScalarType? dtype = null) => input.nanmean(dim, keepdim, dtype);

    public static Tensor rand_like(Tensor input, ScalarType? dtype = null, Device? device = null, bool requires_grad = false) =>
        input.rand_like(dtype, device, requires_grad);

    public static Tensor randint_like(Tensor input, long low, long high, ScalarType? dtype = null, Device? device = null, bool requires_grad = false) =>
        input.randint_like(low, high, dtype, device, requires_grad);

}
