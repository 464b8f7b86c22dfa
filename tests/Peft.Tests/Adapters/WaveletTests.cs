using Peft.Adapters.Methods.WaveFT;

namespace Peft.Tests.Adapters;

/// <summary>Filters of wavelets: orthonormal, and those that PEFT has under their names.</summary>
public class WaveletTests
{
    [Theory]
    [InlineData("db4", 8, 0.2303778133, -0.0105974018)]
    [InlineData("db10", 20, 0.0266700579, -0.0000132642)]
    [InlineData("sym2", 4, 0.4829629131, -0.1294095226)]
    [InlineData("sym3", 6, 0.3326705530, 0.0352262919)]
    [InlineData("sym4", 8, 0.0322231006, -0.0757657148)]
    [InlineData("sym5", 10, 0.0195388827, 0.0273330683)]
    [InlineData("sym6", 12, -0.0078007083, 0.0154041093)]
    [InlineData("sym7", 14, 0.0102681767, 0.0026818146)]
    [InlineData("sym8", 16, 0.0018899503, -0.0033824160)]
    [InlineData("sym9", 18, 0.0010694900, 0.0014009155)]
    [InlineData("sym10", 20, -0.0004593294, 0.0007701598)]
    [InlineData("coif1", 6, -0.0727326195, -0.0156557281)]
    [InlineData("coif2", 12, 0.0163873365, -0.0007205494)]
    [InlineData("coif3", 18, -0.0037935129, -0.0000345998)]
    public void A_filter_is_the_peers_and_orthonormal(string name, int length, double first, double last)
    {
        var filter = Wavelet.LowPass(name);
        Assert.Equal(length, filter.Length);
        Assert.Equal(first, filter[0], 1e-9);
        Assert.Equal(last, filter[^1], 1e-9);
        Assert.Equal(Math.Sqrt(2), filter.Sum(), 1e-9);
        for (var shift = 0; shift < length; shift += 2)
        {
            Assert.Equal(shift == 0 ? 1 : 0, filter.Skip(shift).Zip(filter, static (one, other) => one * other).Sum(), 1e-9);
        }

        // The wavelet itself has no mean and no slope beyond Haar's.
        Assert.Equal(0, Wavelet.HighPass(filter).Sum(), 1e-9);
        Assert.Equal(0, Wavelet.HighPass(filter).Select(static (value, i) => value * i).Sum(), 1e-8);
    }

    [Theory]
    [InlineData("db11")]
    [InlineData("sym1")]
    [InlineData("sym")]
    [InlineData("coif4")]
    [InlineData("4")]
    [InlineData("")]
    public void Other_names_are_refused(string name) =>
        Assert.Equal("WaveletNotSupported", Assert.Throws<NotSupportedByPeftException>(() => Wavelet.LowPass(name)).ErrorId);
}
