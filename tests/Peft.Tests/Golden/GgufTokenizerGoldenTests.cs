using Peft.Tensors.Gguf;
using Peft.Tokenization;

namespace Peft.Tests.Golden;

/// <summary>Vocabularies inside GGUF files, held to the tokenizer that the peer makes of them.</summary>
public class GgufTokenizerGoldenTests
{
    [GoldenTheory]
    [GoldenData("gguf", Holding = "encodings.json")]
    public void Vocabulary(string path) => GoldenCases.Run("gguf", path, folder =>
    {
        using var file = GgufFile.Open(Directory.EnumerateFiles(folder, "*.gguf").Single());
        TokenizerCase.RunGguf(Tokenizer.FromGguf(file.Metadata), folder);
    });
}
