namespace TorchSharp;

public static partial class torch
{
    // Functions of single elements.
    public partial class Tensor
    {
        public Tensor abs() => Aten.abs.Tensor(this);

        public Tensor abs_() => Aten.abs_.InPlace(this);

        public Tensor acos() => Aten.acos.Tensor(this);

        public Tensor acos_() => Aten.acos_.InPlace(this);

        public Tensor add(Tensor target) => Aten.add_Tensor.Tensor(this, target);

        public Tensor add(Scalar scalar) => Aten.add_Scalar.Tensor(this, scalar);

        public Tensor add(Tensor target, Scalar alpha) => Aten.add_Tensor.Tensor(this, target, alpha);

        public Tensor add(Scalar scalar, Scalar alpha) => Aten.add_Scalar.Tensor(this, scalar, alpha);

        public Tensor add_(Tensor target) => Aten.add__Tensor.InPlace(this, target);

        public Tensor add_(Scalar scalar) => Aten.add__Scalar.InPlace(this, scalar);

        public Tensor add_(Tensor target, Scalar alpha) => Aten.add__Tensor.InPlace(this, target, alpha);

        public Tensor add_(Scalar scalar, Scalar alpha) => Aten.add__Scalar.InPlace(this, scalar, alpha);

        public Tensor addcdiv(Tensor tensor1, Tensor tensor2) => Aten.addcdiv.Tensor(this, tensor1, tensor2);

        public Tensor addcdiv(Tensor tensor1, Tensor tensor2, Scalar value) => Aten.addcdiv.Tensor(this, tensor1, tensor2, value);

        public Tensor addcdiv_(Tensor tensor1, Tensor tensor2) => Aten.addcdiv_.InPlace(this, tensor1, tensor2);

        public Tensor addcdiv_(Tensor tensor1, Tensor tensor2, Scalar value) => Aten.addcdiv_.InPlace(this, tensor1, tensor2, value);

        public Tensor addcmul(Tensor tensor1, Tensor tensor2, Scalar value) => Aten.addcmul.Tensor(this, tensor1, tensor2, value);

        public Tensor addcmul_(Tensor tensor1, Tensor tensor2, Scalar value) => Aten.addcmul_.InPlace(this, tensor1, tensor2, value);

        public Tensor angle() => Aten.angle.Tensor(this);

        public Tensor asin() => Aten.asin.Tensor(this);

        public Tensor atan() => Aten.atan.Tensor(this);

        public Tensor atan2(Tensor other) => Aten.atan2.Tensor(this, other);

        public Tensor bucketize(Tensor boundaries, bool outInt32 = false, bool right = false) =>
            Aten.bucketize_Tensor.Tensor(this, boundaries, outInt32, right);

        public Tensor ceil() => Aten.ceil.Tensor(this);

        public Tensor ceil_() => Aten.ceil_.InPlace(this);

        public Tensor clamp(Scalar? min = null, Scalar? max = null) => Aten.clamp.Tensor(this, min, max);

        public Tensor clamp(Tensor? min = null, Tensor? max = null) => Aten.clamp_Tensor.Tensor(this, min, max);

        public Tensor clamp_(Scalar? min = null, Scalar? max = null) => Aten.clamp_.InPlace(this, min, max);

        public Tensor clamp_(Tensor? min = null, Tensor? max = null) => Aten.clamp__Tensor.InPlace(this, min, max);

        public Tensor clamp_max(Scalar max) => Aten.clamp_max.Tensor(this, max);

        public Tensor clamp_max_(Scalar max) => Aten.clamp_max_.InPlace(this, max);

        public Tensor clamp_min(Scalar min) => Aten.clamp_min.Tensor(this, min);

        public Tensor clamp_min_(Scalar min) => Aten.clamp_min_.InPlace(this, min);

        public Tensor clip(Scalar? min = null, Scalar? max = null) => Aten.clip.Tensor(this, min, max);

        public Tensor conj() => Aten.conj.Tensor(this);

        public Tensor cos() => Aten.cos.Tensor(this);

        public Tensor cos_() => Aten.cos_.InPlace(this);

        public Tensor elu(double alpha = 1) => Aten.elu.Tensor(this, alpha);

        public Tensor elu(Scalar alpha, Scalar scale, Scalar input_scale) => Aten.elu.Tensor(this, alpha, scale, input_scale);

        public Tensor erf() => Aten.erf.Tensor(this);

        public Tensor erf_() => Aten.erf_.InPlace(this);

        public Tensor erfinv() => Aten.erfinv.Tensor(this);

        public Tensor erfinv_() => Aten.erfinv_.InPlace(this);

        public Tensor exp() => Aten.exp.Tensor(this);

        public Tensor exp_() => Aten.exp_.InPlace(this);

        public Tensor expm1() => Aten.expm1.Tensor(this);

        public Tensor fill_(Scalar value) => Aten.fill__Scalar.InPlace(this, value);

        public Tensor floor() => Aten.floor.Tensor(this);

        public Tensor floor_() => Aten.floor_.InPlace(this);

        public Tensor floor_divide(Tensor other) => Aten.floor_divide.Tensor(this, other);

        public Tensor floor_divide(Scalar other) => Aten.floor_divide_Scalar.Tensor(this, other);

        public Tensor floor_divide_(Tensor other) => Aten.floor_divide__Tensor.InPlace(this, other);

        public Tensor floor_divide_(Scalar other) => Aten.floor_divide__Scalar.InPlace(this, other);

        public Tensor fmod(Tensor target) => Aten.fmod_Tensor.Tensor(this, target);

        public Tensor fmod(Scalar scalar) => Aten.fmod_Scalar.Tensor(this, scalar);

        public Tensor fmod_(Tensor target) => Aten.fmod__Tensor.InPlace(this, target);

        public Tensor fmod_(Scalar scalar) => Aten.fmod__Scalar.InPlace(this, scalar);

        public Tensor frac() => Aten.frac.Tensor(this);

        public Tensor gelu() => Aten.gelu.Tensor(this);

        public Tensor gelu_() => Aten.gelu_.Tensor(this);

        public Tensor glu(long dim = -1) => Aten.glu.Tensor(this, dim);

        public Tensor hardsigmoid() => Aten.hardsigmoid.Tensor(this);

        public Tensor hardswish() => Aten.hardswish.Tensor(this);

        public Tensor leaky_relu(Scalar negative_slope) => Aten.leaky_relu.Tensor(this, negative_slope);

        public Tensor leaky_relu_(Scalar negative_slope) => Aten.leaky_relu_.InPlace(this, negative_slope);

        public Tensor lerp(Tensor end, Tensor weight) => Aten.lerp_Tensor.Tensor(this, end, weight.to(dtype));

        public Tensor lerp_(Tensor end, Tensor weight) => Aten.lerp__Tensor.InPlace(this, end, weight.to(dtype));

        public Tensor log() => Aten.log.Tensor(this);

        public Tensor log10() => Aten.log10.Tensor(this);

        public Tensor log1p() => Aten.log1p.Tensor(this);

        public Tensor log1p_() => Aten.log1p_.InPlace(this);

        public Tensor log2() => Aten.log2.Tensor(this);

        public Tensor log_() => Aten.log_.InPlace(this);

        public Tensor log_sigmoid() => Aten.log_sigmoid.Tensor(this);

        public Tensor log_softmax(long dim, ScalarType? dtype = null) => Aten.log_softmax_int.Tensor(this, dim, dtype);

        public Tensor logaddexp(Tensor other) => Aten.logaddexp.Tensor(this, other);

        public Tensor mul(Tensor target) => Aten.mul_Tensor.Tensor(this, target);

        public Tensor mul(Scalar target) => Aten.mul_Scalar.Tensor(this, target);

        public Tensor mul_(Tensor target) => Aten.mul__Tensor.InPlace(this, target);

        public Tensor mul_(Scalar target) => Aten.mul__Scalar.InPlace(this, target);

        public Tensor multiply(Tensor target) => Aten.multiply_Tensor.Tensor(this, target);

        public Tensor multiply(Scalar target) => Aten.multiply_Scalar.Tensor(this, target);

        public Tensor neg() => Aten.neg.Tensor(this);

        public Tensor neg_() => Aten.neg_.InPlace(this);

        public Tensor negative() => Aten.negative.Tensor(this);

        public Tensor pow(Tensor exponent) => Aten.pow_Tensor_Tensor.Tensor(this, exponent);

        public Tensor pow(Scalar exponent) => Aten.pow_Tensor_Scalar.Tensor(this, exponent);

        public Tensor pow_(Tensor exponent) => Aten.pow__Tensor.InPlace(this, exponent);

        public Tensor pow_(Scalar exponent) => Aten.pow__Scalar.InPlace(this, exponent);

        public Tensor prelu(Tensor target) => Aten.prelu.Tensor(this, target);

        public Tensor lgamma() => Aten.lgamma.Tensor(this);

        public Tensor digamma() => Aten.digamma.Tensor(this);

        public Tensor reciprocal() => Aten.reciprocal.Tensor(this);

        public Tensor reciprocal_() => Aten.reciprocal_.InPlace(this);

        public Tensor relu() => Aten.relu.Tensor(this);

        public Tensor relu_() => Aten.relu_.InPlace(this);

        public Tensor remainder(Tensor target) => Aten.remainder_Tensor.Tensor(this, target);

        public Tensor remainder(Scalar scalar) => Aten.remainder_Scalar.Tensor(this, scalar);

        public Tensor remainder_(Tensor target) => Aten.remainder__Tensor.InPlace(this, target);

        public Tensor remainder_(Scalar scalar) => Aten.remainder__Scalar.InPlace(this, scalar);

        public Tensor round(long decimals = 0) => Aten.round_decimals.Tensor(this, decimals);

        public Tensor round_(long decimals = 0) => Aten.round__decimals.InPlace(this, decimals);

        public Tensor rsqrt() => Aten.rsqrt.Tensor(this);

        public Tensor rsqrt_() => Aten.rsqrt_.InPlace(this);

        public Tensor sgn() => Aten.sgn.Tensor(this);

        public Tensor sigmoid() => Aten.sigmoid.Tensor(this);

        public Tensor sigmoid_() => Aten.sigmoid_.InPlace(this);

        public Tensor sign() => Aten.sign.Tensor(this);

        public Tensor sign_() => Aten.sign_.InPlace(this);

        public Tensor silu() => RoundedOnce.Silu(this);

        public Tensor silu_() => Aten.silu_.InPlace(this);

        public Tensor sin() => Aten.sin.Tensor(this);

        public Tensor sin_() => Aten.sin_.InPlace(this);

        public Tensor softmax(long dim, ScalarType? dtype = null) => Aten.softmax_int.Tensor(this, dim, dtype);

        public Tensor softplus(double beta = 1, double threshold = 20) => Aten.softplus.Tensor(this, beta, threshold);

        public Tensor sqrt() => Aten.sqrt.Tensor(this);

        public Tensor sqrt_() => Aten.sqrt_.InPlace(this);

        public Tensor square() => Aten.square.Tensor(this);

        public Tensor sub(Tensor target) => Aten.sub_Tensor.Tensor(this, target);

        public Tensor sub(Scalar target) => Aten.sub_Scalar.Tensor(this, target);

        public Tensor sub_(Tensor target) => Aten.sub__Tensor.InPlace(this, target);

        public Tensor sub_(Scalar target) => Aten.sub__Scalar.InPlace(this, target);

        public Tensor subtract(Scalar target) => Aten.subtract_Scalar.Tensor(this, target);

        public Tensor subtract(Tensor target) => Aten.subtract_Tensor.Tensor(this, target);

        public Tensor tan() => Aten.tan.Tensor(this);

        public Tensor tan_() => Aten.tan_.InPlace(this);

        public Tensor tanh() => Aten.tanh.Tensor(this);

        public Tensor tanh_() => Aten.tanh_.InPlace(this);

        public Tensor true_divide(Tensor other) => Aten.true_divide_Tensor.Tensor(this, other);

        public Tensor true_divide(Scalar other) => Aten.true_divide_Scalar.Tensor(this, other);

        public Tensor trunc() => Aten.trunc.Tensor(this);

        public Tensor trunc_() => Aten.trunc_.InPlace(this);

        public Tensor zero_() => Aten.zero_.Tensor(this);
    }
}
