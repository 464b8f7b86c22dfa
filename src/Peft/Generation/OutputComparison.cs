using Peft.Adapters.Model;
using Peft.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Generation;

/// <summary>What one adapter, or the base, makes of a prompt beside others.</summary>
/// <param name="Prompt">The prompt.</param>
/// <param name="AdapterName">The adapter, or <see cref="BaseName"/>.</param>
/// <param name="Text">Its continuation.</param>
/// <param name="LargestDifference">Largest absolute difference of its scores for the next token from those of the first one compared.</param>
public sealed record OutputComparison(string Prompt, string AdapterName, string Text, double LargestDifference)
{
    /// <summary>Names the base alone in a comparison.</summary>
    public const string BaseName = "base";

    /// <summary>Continues each prompt with each adapter, without switching the model.</summary>
    /// <param name="model">A causal language model with a tokenizer.</param>
    /// <param name="prompts">Prompts.</param>
    /// <param name="adapterNames">Adapters in the order to compare, <see cref="BaseName"/> for the base alone.</param>
    /// <param name="options">How to continue.</param>
    /// <param name="onChunk">Sees each added token, on the thread that decodes.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    /// <returns>Prompt by prompt, adapter by adapter.</returns>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, <c>ModelIsMerged</c>, <c>TokenizerMissing</c>, <c>ModelCannotGenerate</c>, <c>PromptEmpty</c>.</exception>
    public static IReadOnlyList<OutputComparison> Compare(
        PeftModel model,
        IReadOnlyList<string> prompts,
        IReadOnlyList<string> adapterNames,
        GenerationOptions options,
        Action<GenerationChunk>? onChunk = null,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(adapterNames);
        ArgumentNullException.ThrowIfNull(options);
        options = options with { ReturnCount = 1 };
        var generator = new TextGenerator(model);
        var selections = adapterNames.Select(name => SelectionOf(model, name)).ToArray();
        var texts = selections.Select(selection => generator.Generate(prompts, options, selection, onChunk, cancellation)).ToArray();
        var results = new List<OutputComparison>();
        for (var p = 0; p < prompts.Count; p++)
        {
            using var scope = NewDisposeScope();
            var scores = selections.Select(selection => NextScores(model, prompts[p], selection, cancellation)).ToArray();
            results.AddRange(adapterNames.Select((name, a) =>
                new OutputComparison(prompts[p], name, texts[a][p].Text, (scores[a] - scores[0]).abs().max().ToDouble())));
        }

        return results;
    }

    /// <summary>Scores over the vocabulary for the token after a prompt.</summary>
    /// <param name="model">A causal language model with a tokenizer.</param>
    /// <param name="prompt">The prompt.</param>
    /// <param name="selection">Which adapters act; null for those active on the model.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    /// <returns>float32 [vocabulary]; the caller owns it.</returns>
    /// <exception cref="PeftException"><c>TokenizerMissing</c>, <c>ModelCannotGenerate</c>, <c>PromptEmpty</c>, <c>PeftModelBusy</c>.</exception>
    public static Tensor NextScores(PeftModel model, string prompt, AdapterSelection? selection = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        return new TextGenerator(model).NextScores(prompt, selection, cancellation);
    }

    private static AdapterSelection SelectionOf(PeftModel model, string name) =>
        name == BaseName && model.Adapters.All(static adapter => adapter.Name != BaseName) ? model.Select() : model.Select(name);
}
