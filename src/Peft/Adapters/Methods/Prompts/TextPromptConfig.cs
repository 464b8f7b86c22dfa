using System.Text.Json.Nodes;
using Peft.Adapters.Configuration;
using Peft.Adapters.Files;
using Peft.Tokenization;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Prompts;

/// <summary>The configuration of a method whose virtual tokens may start as the tokens of a text.</summary>
public abstract record TextPromptConfig : PromptConfig
{
    /// <summary>The text to start from.</summary>
    [ConfigField("prompt_tuning_init_text", Parameter = "InitializationText")]
    public string? StartText { get; init; }

    /// <summary>Folder of the tokenizer that reads the text; without it the model's own does.</summary>
    [ConfigField("tokenizer_name_or_path", Parameter = "TokenizerPath")]
    public string? TokenizerPath { get; init; }

    /// <summary>What PEFT gives to its tokenizer; kept, and without effect here.</summary>
    [ConfigField("tokenizer_kwargs")]
    public JsonNode? TokenizerOptions { get; init; }

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (NeedsText && string.IsNullOrEmpty(StartText))
        {
            throw Contradiction("prompt_tuning_init TEXT needs prompt_tuning_init_text.");
        }
    }

    /// <summary>Whether the start is a text's.</summary>
    private protected abstract bool NeedsText { get; }

    /// <summary>Ids of the text's tokens, repeated or cut to a number, int64.</summary>
    /// <exception cref="PeftException"><c>TokenizerMissing</c>, or <c>AdapterConfigContradictory</c> where the text has no token.</exception>
    internal Tensor TextIds(long count)
    {
        var path = TokenizerPath ?? BaseModelName!;
        var tokenizer = Directory.Exists(path) || File.Exists(path) ? ModelFiles.FindTokenizer(path) : null;
        var ids = tokenizer?.EncodeIds(StartText!) ?? throw new PeftException("TokenizerMissing", $"The prompt starts from a text, and there is no tokenizer in '{path}' to read it with.")
        {
            Target = path,
            RecommendedAction = "Give the folder of a tokenizer as tokenizer_name_or_path.",
        };
        return ids.Length > 0 ? tensor(Enumerable.Range(0, (int)count).Select(i => (long)ids[i % ids.Length]).ToArray()) : throw new PeftException(
            "AdapterConfigContradictory", "prompt_tuning_init_text has no token to start from.") { Target = StartText };
    }
}
