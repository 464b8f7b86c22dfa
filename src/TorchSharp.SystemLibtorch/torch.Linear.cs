namespace TorchSharp;

// Products of matrices and vectors.
public static partial class torch
{
    public static Tensor addmm(Tensor input, Tensor mat1, Tensor mat2, float beta, float alpha) => input.addmm(mat1, mat2, beta, alpha);

    public static Tensor addmm_(Tensor input, Tensor mat1, Tensor mat2, float beta, float alpha) => input.addmm_(mat1, mat2, beta, alpha);

    public static Tensor addmv(Tensor input, Tensor mat1, Tensor mat2, float beta, float alpha) => input.addmv(mat1, mat2, beta, alpha);

    public static Tensor addmv_(Tensor input, Tensor mat1, Tensor mat2, float beta, float alpha) => input.addmv_(mat1, mat2, beta, alpha);

    public static Tensor bmm(Tensor input, Tensor batch2) => input.bmm(batch2);

    public static Tensor det(Tensor input) => input.det();

    public static Tensor dot(Tensor input, Tensor other) => input.dot(other);

    public static Tensor inner(Tensor input, Tensor vec2) => input.inner(vec2);

    public static Tensor inverse(Tensor input) => input.inverse();

    public static Tensor logdet(Tensor input) => input.logdet();

    public static Tensor matmul(Tensor input, Tensor target) => input.matmul(target);

    public static Tensor matrix_exp(Tensor input) => input.matrix_exp();

    public static Tensor matrix_power(Tensor input, int n) => input.matrix_power(n);

    public static Tensor mm(Tensor input, Tensor target) => input.mm(target);

    public static Tensor mv(Tensor input, Tensor target) => input.mv(target);

    public static Tensor outer(Tensor input, Tensor vec2) => input.outer(vec2);

    public static Tensor tensordot(Tensor a, Tensor b, long[] dims1, long[] dims2) => a.tensordot(b, dims1, dims2);
}
