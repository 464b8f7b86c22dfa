namespace TorchSharp;

/// <summary>How a discrete Fourier transform and its inverse share the division by the number of elements.</summary>
public enum FFTNormType
{
    Backward,
    Forward,
    Ortho,
}

public static partial class torch
{
    public static class fft
    {
        public static Tensor ifft2(Tensor input, long[]? s = null, long[]? dim = null, FFTNormType norm = FFTNormType.Backward) =>
            Aten.fft_ifft2.Tensor(input, s, dim ?? [-2, -1], Name(norm));

        public static Tensor rfft(Tensor input, long n = -1, long dim = -1, FFTNormType norm = FFTNormType.Backward) =>
            Aten.fft_rfft.Tensor(input, n < 0 ? default(Argument) : n, dim, Name(norm));

        public static Tensor irfft(Tensor input, long n = -1, long dim = -1, FFTNormType norm = FFTNormType.Backward) =>
            Aten.fft_irfft.Tensor(input, n < 0 ? default(Argument) : n, dim, Name(norm));

        private static string Name(FFTNormType norm) => norm switch
        {
            FFTNormType.Forward => "forward",
            FFTNormType.Ortho => "ortho",
            _ => "backward",
        };
    }
}
