using Peft.Tokenization;

namespace Peft.Tests.Golden;

/// <summary>Tokenizer files of every kind, held to what the peer's packages made of them.</summary>
public class TokenizerGoldenTests
{
    [GoldenTheory]
    [GoldenData("tokenizers")]
    public void Tokenizers(string path) => GoldenCases.Run("tokenizers", path, folder => TokenizerCase.Run(folder));
}
