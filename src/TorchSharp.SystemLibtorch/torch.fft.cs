namespace TorchSharp;

public static partial class torch
{
    public static class fft
    {
        public static Tensor ifft2(Tensor input, long[]? s = null, long[]? dim = null) => Aten.fft_ifft2.Tensor(input, s, dim ?? [-2, -1]);

        public static Tensor rfft(Tensor input, long n = -1, long dim = -1) => Aten.fft_rfft.Tensor(input, n < 0 ? default : n, dim);

        public static Tensor irfft(Tensor input, long n = -1, long dim = -1) => Aten.fft_irfft.Tensor(input, n < 0 ? default : n, dim);
    }
}
