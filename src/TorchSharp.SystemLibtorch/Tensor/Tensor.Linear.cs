namespace TorchSharp;

public static partial class torch
{
    // Products of matrices and vectors.
    public partial class Tensor
    {
        public Tensor addmm(Tensor mat1, Tensor mat2, float beta = 1, float alpha = 1) => Aten.addmm.Tensor(this, mat1, mat2, beta, alpha);

        public Tensor addmm_(Tensor mat1, Tensor mat2, float beta = 1, float alpha = 1) => Aten.addmm_.InPlace(this, mat1, mat2, beta, alpha);

        public Tensor addmv(Tensor mat, Tensor vec, float beta = 1, float alpha = 1) => Aten.addmv.Tensor(this, mat, vec, beta, alpha);

        public Tensor addmv_(Tensor mat, Tensor vec, float beta = 1, float alpha = 1) => Aten.addmv_.InPlace(this, mat, vec, beta, alpha);

        public Tensor baddbmm(Tensor batch1, Tensor batch2, float beta = 1, float alpha = 1) =>
            Aten.baddbmm.Tensor(this, batch1, batch2, beta, alpha);

        public Tensor bmm(Tensor batch2) => Aten.bmm.Tensor(this, batch2);

        public Tensor det() => Aten.det.Tensor(this);

        public Tensor dot(Tensor target) => Aten.dot.Tensor(this, target);

        public Tensor inner(Tensor vec2) => Aten.inner.Tensor(this, vec2);

        public Tensor inverse() => Aten.inverse.Tensor(this);

        public Tensor logdet() => Aten.logdet.Tensor(this);

        public Tensor matmul(Tensor target) => Aten.matmul.Tensor(this, target);

        public Tensor matrix_exp() => Aten.matrix_exp.Tensor(this);

        public Tensor matrix_power(int n) => Aten.matrix_power.Tensor(this, n);

        public Tensor mm(Tensor target) => Aten.mm.Tensor(this, target);

        public Tensor mv(Tensor target) => Aten.mv.Tensor(this, target);

        public Tensor outer(Tensor vec2) => Aten.outer.Tensor(this, vec2);

        public Tensor tensordot(Tensor b, long[] dims1, long[] dims2) => Aten.tensordot.Tensor(this, b, dims1, dims2);
    }
}
