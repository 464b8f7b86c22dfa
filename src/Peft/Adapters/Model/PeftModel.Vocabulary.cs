using Peft.Tokenization;

namespace Peft.Adapters.Model;

/// <content>The model's tokens.</content>
public sealed partial class PeftModel
{
    /// <summary>
    /// Adds tokens to the tokenizer and gives them rows in the token embeddings and in the output layer. They are the model's from now on: saved with it, and in the
    /// folder of every adapter that is saved. An adapter that trains them names their ids (<c>trainable_token_indices</c>) or the tables (<c>modules_to_save</c>).
    /// </summary>
    /// <param name="tokens">The tokens; those that the tokenizer has already stay as they are.</param>
    /// <returns>Their ids, in the same order.</returns>
    /// <exception cref="PeftException">
    /// <c>TokenInvalid</c>, <c>TokenizerMissing</c>, <c>ModelIsMerged</c>, <c>WeightsPacked</c>, or <c>VocabularyInUse</c>: an adapter acts on the tables.
    /// </exception>
    /// <exception cref="NotSupportedByPeftException"><c>VocabularyNotExtendable</c>.</exception>
    public IReadOnlyList<int> AddTokens(IReadOnlyList<NewToken> tokens)
    {
        ArgumentNullException.ThrowIfNull(tokens);
        using var held = Acquire("adding tokens");
        _merge.Refuse("its vocabulary can't grow");
        Vocabulary.Add(tokens);
        _adapters.Activate([.. _adapters.Active]);
        return [.. tokens.Select(token => Tokenizer!.TokenId(token.Text)!.Value)];
    }

    /// <summary>The tokens that were added.</summary>
    internal ModelVocabulary Vocabulary => field ??= new ModelVocabulary(this);

    /// <summary>Has another tokenizer from now on.</summary>
    internal void Exchange(Tokenizer? tokenizer) => _tokenizer = new Lazy<Tokenizer?>(tokenizer);
}
