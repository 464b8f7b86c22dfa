using Peft.Adapters.Model;
using Peft.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Generation;

/// <summary>How well a model predicts a text.</summary>
/// <param name="Value">exp of <paramref name="Loss"/>.</param>
/// <param name="Loss">Mean negative log-likelihood of a token, in nats.</param>
/// <param name="Tokens">Tokens that were predicted: all of the text's but the first.</param>
public sealed record PerplexityResult(double Value, double Loss, int Tokens)
{
    /// <summary>Measures the perplexity of a text: windows of at most <paramref name="windowLength"/> tokens, each starting at the last token of the one before, so that every token but the first is predicted once.</summary>
    /// <param name="model">A causal language model with a tokenizer.</param>
    /// <param name="text">The text; encoded without special tokens.</param>
    /// <param name="windowLength">Tokens in a window; null for the model's longest context, at most 2,048.</param>
    /// <param name="selection">Which adapters act; null for those active on the model.</param>
    /// <param name="onProgress">Sees how many tokens are predicted, and how many there are to predict.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    /// <exception cref="PeftException"><c>TokenizerMissing</c>, <c>ModelCannotGenerate</c>, <c>TextTooShort</c>, <c>PeftModelBusy</c>.</exception>
    public static PerplexityResult Measure(
        PeftModel model,
        string text,
        int? windowLength = null,
        AdapterSelection? selection = null,
        Action<long, long>? onProgress = null,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        var network = TextGenerator.RequireNetwork(model);
        var ids = model.RequiredTokenizer.EncodeIds(text, addSpecialTokens: false);
        if (ids.Length < 2)
        {
            throw new PeftException("TextTooShort", "The text has fewer than two tokens; there is nothing to predict.") { Target = text, RecommendedAction = "Give a longer text." };
        }

        var window = windowLength ?? (int)Math.Min(2048, model.Config.Integer("max_position_embeddings") ?? 2048);
        if (window < 2)
        {
            throw new PeftException("WindowTooShort", "A window must hold at least two tokens.") { Target = window, RecommendedAction = "Give a longer window, or none." };
        }

        using var lease = model.Acquire("measuring perplexity");
        using var noGrad = no_grad();
        var context = model.NewPass(new ForwardContext { Rows = 1, Cancellation = cancellation }, selection);
        var predicted = ids.Length - 1;
        var sum = 0.0;
        for (var start = 0; start < predicted; start += window - 1)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            var length = Math.Min(window, ids.Length - start);
            var row = tensor(ids.Skip(start).Take(length).Select(static id => (long)id).ToArray(), [1, length], device: model.Device);
            var pass = context with { Length = length };
            sum += network.Loss(network.Forward(row, pass), row, divisor: 1, pass).ToDouble();
            onProgress?.Invoke(start + length - 1, predicted);
        }

        var loss = sum / predicted;
        return new PerplexityResult(Math.Exp(loss), loss, predicted);
    }
}
