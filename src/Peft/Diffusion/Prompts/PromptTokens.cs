using Peft.Tokenization;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Diffusion.Prompts;

/// <summary>A prompt as a text encoder reads it: chunks of its length, each with begin and end, and the weight of each token.</summary>
public sealed class PromptTokens
{
    private readonly int[] _empty;

    private PromptTokens(IReadOnlyList<int[]> ids, IReadOnlyList<float[]> weights, int[] empty) => (Ids, Weights, _empty) = (ids, weights, empty);

    /// <summary>Token ids by chunk.</summary>
    public IReadOnlyList<int[]> Ids { get; }

    /// <summary>Weights by chunk.</summary>
    public IReadOnlyList<float[]> Weights { get; }

    /// <summary>Whether any token counts other than once.</summary>
    public bool AreWeighted => Weights.Any(static chunk => chunk.Any(static weight => weight != 1));

    /// <summary>Tokenises a prompt.</summary>
    /// <param name="tokenizer">CLIP's tokenizer.</param>
    /// <param name="prompt">The prompt.</param>
    /// <param name="length">Tokens that the encoder reads at once, begin and end included: 77.</param>
    /// <param name="weighs">Whether brackets weigh words; otherwise they are letters.</param>
    /// <param name="chunks">The most chunks; null for as many as the prompt takes. What is beyond them is left out.</param>
    /// <param name="words">Words that stand for vectors of their own; null for none.</param>
    /// <exception cref="PeftException"><c>TokenizerTokenMissing</c>: the tokenizer has no begin or end.</exception>
    public static PromptTokens Of(Tokenizer tokenizer, string prompt, int length, bool weighs = true, int? chunks = null, PromptWords? words = null)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        ArgumentOutOfRangeException.ThrowIfLessThan(length, 3);
        var (begin, end) = (Required(tokenizer.BosTokenId, "begin"), Required(tokenizer.EosTokenId, "end"));
        var padding = tokenizer.PadTokenId ?? end;
        List<List<(int Id, float Weight)>> filled = [[]];
        foreach (var part in weighs ? PromptWeights.Parse(prompt) : [new WeightedText(prompt, 1)])
        {
            if (part.IsBreak)
            {
                filled.Add([]);
            }

            foreach (var (text, own) in (words ?? PromptWords.None).Split(part.Text))
            {
                foreach (var id in tokenizer.Encode(text, addSpecialTokens: false).Ids)
                {
                    Add([id], part.Weight);
                }

                Add(own, part.Weight);
            }
        }

        filled = [.. filled.Take(chunks ?? int.MaxValue)];
        return new(
            [.. filled.Select(chunk => Chunk(chunk.Select(static token => token.Id)))],
            [.. filled.Select(chunk => (float[])[1, .. chunk.Select(static token => token.Weight), .. Enumerable.Repeat(1f, length - 1 - chunk.Count)])],
            Chunk([]));

        // The vectors of a word stay together where a chunk has room for them.
        void Add(int[] ids, double weight)
        {
            foreach (var together in ids.Length <= length - 2 ? [ids] : ids.Chunk(1))
            {
                if (filled[^1].Count + together.Length > length - 2)
                {
                    filled.Add([]);
                }

                filled[^1].AddRange(together.Select(id => (id, (float)weight)));
            }
        }

        int[] Chunk(IEnumerable<int> ids)
        {
            int[] whole = [begin, .. ids, end];
            return [.. whole, .. Enumerable.Repeat(padding, length - whole.Length)];
        }
    }

    /// <summary>The same with empty chunks behind, so that prompts of different lengths stand in one batch.</summary>
    /// <param name="chunks">Number of chunks, no less than there are.</param>
    public PromptTokens WithChunks(int chunks) => new(
        [.. Ids, .. Enumerable.Repeat(_empty, chunks - Ids.Count)],
        [.. Weights, .. Enumerable.Range(0, chunks - Ids.Count).Select(_ => Enumerable.Repeat(1f, _empty.Length).ToArray())],
        _empty);

    /// <summary>Token ids, int64 [chunks, length].</summary>
    /// <param name="device">Where they go.</param>
    public Tensor ToTensor(Device device) => tensor([.. Ids.SelectMany(static chunk => chunk).Select(static id => (long)id)], [Ids.Count, _empty.Length], ScalarType.Int64, device);

    /// <summary>Weighs an encoder's states, keeps the mean of each chunk as it was, and puts the chunks one behind the other.</summary>
    /// <param name="states">[chunks, length, width].</param>
    /// <returns>[1, chunks · length, width].</returns>
    public Tensor Weigh(Tensor states)
    {
        ArgumentNullException.ThrowIfNull(states);
        if (AreWeighted)
        {
            var weights = tensor([.. Weights.SelectMany(static chunk => chunk)], [Ids.Count, _empty.Length, 1], ScalarType.Float32, states.device).to(states.dtype);
            var weighed = states.mul(weights);
            states = weighed.mul(states.mean([1, 2], keepdim: true).div(weighed.mean([1, 2], keepdim: true)));
        }

        return states.reshape(1, -1, states.size(2));
    }

    private static int Required(int? id, string what) => id ?? throw new PeftException("TokenizerTokenMissing", $"The tokenizer has no token for the {what} of a text, which the text encoder of a diffusion model needs.");
}
