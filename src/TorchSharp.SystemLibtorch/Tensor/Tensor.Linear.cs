namespace TorchSharp;

public static partial class torch
{
    // Products of matrices and vectors.
    public partial class Tensor
    {
        public Tensor addmm(Tensor mat1, Tensor mat2, float beta = 1, float alpha = 1) => RoundedOnce.Sum(this, mat1, mat2, beta, alpha);

        public Tensor addmm_(Tensor mat1, Tensor mat2, float beta = 1, float alpha = 1) => RoundedOnce.SumInPlace(this, mat1, mat2, beta, alpha);

        public Tensor addmv(Tensor mat, Tensor vec, float beta = 1, float alpha = 1) => Aten.addmv.Tensor(this, mat, vec, beta, alpha);

        public Tensor addmv_(Tensor mat, Tensor vec, float beta = 1, float alpha = 1) => Aten.addmv_.InPlace(this, mat, vec, beta, alpha);

        public Tensor bmm(Tensor batch2) => RoundedOnce.Product(Aten.bmm, this, batch2);

        public Tensor det() => Aten.det.Tensor(this);

        public Tensor dot(Tensor target) => Aten.dot.Tensor(this, target);

        public Tensor inner(Tensor vec2) => Aten.inner.Tensor(this, vec2);

        public Tensor inverse() => Aten.inverse.Tensor(this);

        public Tensor logdet() => Aten.logdet.Tensor(this);

        public Tensor matmul(Tensor target) => RoundedOnce.Product(Aten.matmul, this, target);

        public Tensor matrix_exp() => Aten.matrix_exp.Tensor(this);

        public Tensor matrix_power(int n) => Aten.matrix_power.Tensor(this, n);

        public Tensor mm(Tensor target) => RoundedOnce.Product(Aten.mm, this, target);

        public Tensor mv(Tensor target) => Aten.mv.Tensor(this, target);

        public Tensor outer(Tensor vec2) => Aten.outer.Tensor(this, vec2);

        public Tensor tensordot(Tensor b, long[] dims1, long[] dims2) => Aten.tensordot.Tensor(this, b, dims1, dims2);
    }
}
