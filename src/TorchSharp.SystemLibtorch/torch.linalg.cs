namespace TorchSharp;

public static partial class torch
{
    /// <summary>Decompositions, norms and solvers.</summary>
    public static class linalg
    {
        public enum QRMode
        {
            Reduced = 0,
            Complete = 1,
            R = 2,
        }

        public static Tensor cholesky(Tensor input) => Aten.linalg_cholesky.Tensor(input);

        public static Tensor det(Tensor input) => Aten.linalg_det.Tensor(input);

        public static (Tensor, Tensor) eigh(Tensor input, char UPLO = 'L') => Aten.linalg_eigh.Pair(input, UPLO.ToString());

        public static Tensor eigvalsh(Tensor input, char UPLO = 'L') => Aten.linalg_eigvalsh.Tensor(input, UPLO.ToString());

        public static Tensor inv(Tensor input) => Aten.linalg_inv.Tensor(input);

        public static Tensor matrix_exp(Tensor input) => Aten.linalg_matrix_exp.Tensor(input);

        public static Tensor matrix_norm(Tensor input, string ord = "fro", long[]? dims = null, bool keepdim = false) =>
            Aten.linalg_matrix_norm_str_ord.Tensor(input, ord, dims ?? [-2, -1], keepdim);

        public static Tensor matrix_norm(Tensor input, double ord, long[]? dims = null, bool keepdim = false) =>
            Aten.linalg_matrix_norm.Tensor(input, ord, dims ?? [-2, -1], keepdim);

        public static Tensor norm(Tensor input, string ord, long[]? dims = null, bool keepdim = false) =>
            Aten.linalg_norm_ord_str.Tensor(input, ord, dims, keepdim);

        public static Tensor norm(Tensor input, double ord, long[]? dims = null, bool keepdim = false) =>
            Aten.linalg_norm.Tensor(input, ord, dims, keepdim);

        public static Tensor norm(Tensor input, int ord, long[]? dims = null, bool keepdim = false) =>
            Aten.linalg_norm.Tensor(input, (long)ord, dims, keepdim);

        public static Tensor norm(Tensor input, long[]? dims = null, bool keepdim = false) =>
            Aten.linalg_norm.Tensor(input, default, dims, keepdim);

        public static Tensor pinv(Tensor input, double? atol = null, double? rtol = null, bool hermitian = false) =>
            Aten.linalg_pinv_atol_rtol_float.Tensor(input, atol, rtol, hermitian);

        public static (Tensor Q, Tensor R) qr(Tensor input, QRMode mode = QRMode.Reduced) =>
            Aten.linalg_qr.Pair(input, mode == QRMode.R ? "r" : mode == QRMode.Complete ? "complete" : "reduced");

        public static Tensor solve(Tensor A, Tensor B, bool left = true) => Aten.linalg_solve.Tensor(A, B, left);

        public static Tensor solve_triangular(
            Tensor A, Tensor B, bool upper, bool left = true, bool unitriangular = false, Tensor? @out = null) => @out is null
            ? Aten.linalg_solve_triangular.Tensor(A, B, upper, left, unitriangular)
            : @out.copy_(Aten.linalg_solve_triangular.Tensor(A, B, upper, left, unitriangular));

        public static (Tensor U, Tensor S, Tensor Vh) svd(Tensor input, bool fullMatrices = true) => Aten.linalg_svd.Triple(input, fullMatrices);

        public static Tensor svdvals(Tensor input) => Aten.linalg_svdvals.Tensor(input);

        public static Tensor vector_norm(Tensor input, double ord = 2, long[]? dims = null, bool keepdim = false) =>
            Aten.linalg_vector_norm.Tensor(input, ord, dims, keepdim);
    }
}
