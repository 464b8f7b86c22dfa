#if MICROSOFT_ML_TOKENIZERS
using System.IO.Compression;
using System.Reflection;
#endif

namespace Peft.Tokenization.Tiktoken;

/// <summary>The ranks of OpenAI's encodings, as the data packages of Microsoft.ML.Tokenizers bring them.</summary>
internal static class TiktokenData
{
    /// <summary>What a <c>.tiktoken</c> file of that encoding holds.</summary>
    /// <param name="name">The encoding, such as <c>gpt2</c>.</param>
    /// <exception cref="NotSupportedByPeftException"><c>TokenizerFormatNotSupported</c>: this build has no data packages.</exception>
    public static byte[] Read(string name)
    {
#if MICROSOFT_ML_TOKENIZERS
        var assembly = Assembly.Load("Microsoft.ML.Tokenizers.Data." + char.ToUpperInvariant(name[0]) + name[1..]);
        using var packed = assembly.GetManifestResourceStream(name + ".tiktoken.deflate")!;
        using var stream = new DeflateStream(packed, CompressionMode.Decompress);
        using var content = new MemoryStream();
        stream.CopyTo(content);
        return content.ToArray();
#else
        throw new NotSupportedByPeftException("TokenizerFormatNotSupported", $"This tokenizer extends tiktoken's encoding {name}, whose ranks come with Microsoft.ML.Tokenizers, and this build is without it.")
        {
            Target = name,
            RecommendedAction = "Build with a feed that has Microsoft.ML.Tokenizers, or convert the tokenizer to tokenizer.json in Python, and put that beside the model.",
        };
#endif
    }
}
