using Peft.Tokenization;

namespace Peft.Tests.Training;

/// <summary>A tokenizer with a token for each of some words, the last of which ends a sequence.</summary>
internal static class WordTokenizer
{
    public static Tokenizer In(TemporaryFolder folder, string words)
    {
        var tokens = words.Split(' ');
        var vocabulary = string.Join(',', tokens.Select((token, i) => $"\"{token}\":{i}"));
        var last = tokens.Length - 1;
        folder.Write("tokenizer.json", $$"""
            {"version":"1.0","added_tokens":[{"id":{{last}},"content":"{{tokens[last]}}","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
             "normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,"decoder":null,
             "model":{"type":"WordLevel","vocab":{ {{vocabulary}} },"unk_token":"a"} }
            """);
        folder.Write("tokenizer_config.json", $$"""{"eos_token":"{{tokens[last]}}","tokenizer_class":"PreTrainedTokenizerFast" }""");
        return Tokenizer.FromFolder(folder.Path);
    }
}
