using System.Runtime.InteropServices;
using System.Security.Cryptography;
using Peft.Adapters.Asking;
using Peft.Adapters.Model;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training.Policy;

/// <summary>Prompts on their way to a model that answers them.</summary>
/// <param name="Prompts">The prompts.</param>
/// <param name="InputIds">Their tokens, padded behind, int64 [prompts, length].</param>
/// <param name="Labels">Nothing is learnt of them: -100, int64 [prompts, length].</param>
public sealed record PromptBatch(IReadOnlyList<PolicyPrompt> Prompts, Tensor InputIds, Tensor Labels) : TrainingBatch(InputIds, Labels);

/// <summary>Prompts to train on. The answers are the model's own.</summary>
public sealed class PolicyPrompts : ITrainingData
{
    private readonly int _paddingId;

    /// <summary>Takes prompts.</summary>
    /// <param name="prompts">At least one.</param>
    /// <param name="paddingId">Fills shorter prompts of a batch.</param>
    public PolicyPrompts(IReadOnlyList<PolicyPrompt> prompts, int paddingId = 0)
    {
        ArgumentNullException.ThrowIfNull(prompts);
        Prompts = Values.Of(prompts);
        _paddingId = paddingId;
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var prompt in prompts)
        {
            int[] ids = [prompt.Ids.Count, .. prompt.Ids];
            hash.AppendData(MemoryMarshal.AsBytes(ids.AsSpan()));
        }

        Fingerprint = Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    /// <summary>The prompts.</summary>
    public IReadOnlyList<PolicyPrompt> Prompts { get; }

    /// <inheritdoc/>
    public int Count => Prompts.Count;

    /// <inheritdoc/>
    public string Fingerprint { get; }

    /// <inheritdoc/>
    public PromptForm? Form { get; init; }

    /// <inheritdoc/>
    public IReadOnlyList<string> Messages { get; init; } = [];

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Rated;

    /// <inheritdoc/>
    public void RefuseUnfit(PeftModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (model.Base.Backbone.TokenEmbeddings is { Count: var count } && Prompts.FirstOrDefault(prompt => prompt.Ids.Any(id => id >= count)) is { } unfit)
        {
            throw new PeftException("TokenOutOfRange", FormattableString.Invariant($"Row {unfit.Index + 1}: the token {unfit.Ids.First(id => id >= count)} is none of the model's {count}."))
            {
                Target = unfit,
                RecommendedAction = "Use the tokenizer that belongs to this model.",
            };
        }
    }

    /// <inheritdoc/>
    public TrainingBatch Collate(IReadOnlyList<int> rows, Device device)
    {
        ArgumentNullException.ThrowIfNull(rows);
        PolicyPrompt[] prompts = [.. rows.Select(row => Prompts[row])];
        var batch = Collator.Padded([.. prompts.Select(static prompt => new TokenRow([.. prompt.Ids], [.. prompt.Ids.Select(static _ => TrainingExample.Ignored)]))], _paddingId, device);
        return new PromptBatch(prompts, batch.InputIds, batch.Labels) { AttentionMask = batch.AttentionMask, TokenCount = batch.TokenCount, TargetCount = 0 };
    }
}
