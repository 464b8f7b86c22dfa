namespace TorchSharp;

public static partial class torch
{
    // Reductions, orders and running totals.
    public partial class Tensor
    {
        public Tensor all() => Aten.all.Tensor(this);

        public Tensor all(long dim, bool keepdim = false) => Aten.all_dim.Tensor(this, dim, keepdim);

        public Tensor amax(params long[] dims) => Aten.amax.Tensor(this, dims);

        public Tensor amin(params long[] dims) => Aten.amin.Tensor(this, dims);

        public Tensor any() => Aten.any.Tensor(this);

        public Tensor any(long dim, bool keepdim = false) => Aten.any_dim.Tensor(this, dim, keepdim);

        public Tensor argmax() => Aten.argmax.Tensor(this);

        public Tensor argmax(long dim, bool keepdim = false) => Aten.argmax.Tensor(this, dim, keepdim);

        public Tensor argmin() => Aten.argmin.Tensor(this);

        public Tensor argmin(long dim, bool keepdim = false) => Aten.argmin.Tensor(this, dim, keepdim);

        public Tensor argsort(long dim = -1, bool descending = false) => Aten.argsort.Tensor(this, dim, descending);

        public Tensor bincount(Tensor? weights, long minlength = 0) => Aten.bincount.Tensor(this, weights, minlength);

        public Tensor cumprod(long dim, ScalarType? type = null) => Aten.cumprod.Tensor(this, dim, type);

        public Tensor cumsum(long dim, ScalarType? type = null) => Aten.cumsum.Tensor(this, dim, type);

        public Tensor max() => Aten.max.Tensor(this);

        public Tensor max(Tensor other) => Aten.max_other.Tensor(this, other);

        public (Tensor values, Tensor indexes) max(long dim, bool keepdim = false) => Aten.max_dim.Pair(this, dim, keepdim);

        public Tensor mean() => Aten.mean.Tensor(this);

        public Tensor mean(long[] dimensions, bool keepdim = false, ScalarType? type = null) => Aten.mean_dim.Tensor(this, dimensions, keepdim, type);

        public Tensor median() => Aten.median.Tensor(this);

        public Tensor min() => Aten.min.Tensor(this);

        public Tensor min(Tensor other) => Aten.min_other.Tensor(this, other);

        public (Tensor values, Tensor indexes) min(long dim, bool keepdim = false) => Aten.min_dim.Pair(this, dim, keepdim);

        public Tensor nan_to_num(double nan = 0, double? posinf = null, double? neginf = null) => Aten.nan_to_num.Tensor(this, nan, posinf, neginf);

        public Tensor nan_to_num_(double nan = 0, double? posinf = null, double? neginf = null) =>
            Aten.nan_to_num_.InPlace(this, nan, posinf, neginf);

        public Tensor norm(float p = 2) => Aten.norm_Scalar.Tensor(this, p);

        public Tensor prod(ScalarType? type = null) => Aten.prod.Tensor(this, type);

        public Tensor prod(long dim, bool keepdim = false, ScalarType? type = null) => Aten.prod_dim_int.Tensor(this, dim, keepdim, type);

        public Tensor quantile(Tensor q, long dim = -1, bool keepdim = false) => Aten.quantile.Tensor(this, q, dim, keepdim);

        public Tensor std(bool unbiased = true) => Aten.std.Tensor(this, unbiased);

        public Tensor sum(ScalarType? type = null) => Aten.sum.Tensor(this, type);

        public Tensor sum(long[] dim, bool keepdim = false, ScalarType? type = null) => Aten.sum_dim_IntList.Tensor(this, dim, keepdim, type);

        public Tensor sum(ReadOnlySpan<long> dim, bool keepdim = false, ScalarType? type = null) =>
            Aten.sum_dim_IntList.Tensor(this, dim.ToArray(), keepdim, type);

        public (Tensor values, Tensor indexes) topk(int k, int dim = -1, bool largest = true, bool sorted = true) =>
            Aten.topk.Pair(this, k, dim, largest, sorted);

        public Tensor trace() => Aten.trace.Tensor(this);

        public (Tensor output, Tensor? inverse_indices, Tensor? counts) unique_consecutive(bool return_inverse = false, bool return_counts = false, int? dim = null) =>
            Aten.unique_consecutive.Triple(this, return_inverse, return_counts, dim);

        public Tensor var(bool unbiased = true) => Aten.var.Tensor(this, unbiased);
    }
}
