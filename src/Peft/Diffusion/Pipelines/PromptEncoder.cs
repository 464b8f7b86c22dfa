using Peft.Adapters.Model;
using Peft.Diffusion.Prompts;
using Peft.Models;
using Peft.Models.Architectures;
using static TorchSharp.torch;

namespace Peft.Diffusion.Pipelines;

/// <summary>What a UNet reads of a text.</summary>
/// <param name="States">[1, positions, width].</param>
/// <param name="Pooled">[1, width], which SDXL reads beside; null elsewhere.</param>
internal sealed record PromptStates(Tensor States, Tensor? Pooled);

/// <summary>Makes of prompts what the UNet reads: the states of one text encoder, or of SDXL's two side by side with the pooled text of the second.</summary>
/// <param name="model">The model with its adapters.</param>
/// <param name="parts">The same model, by its parts.</param>
/// <param name="selection">Which adapters act; null for those active on the model.</param>
internal sealed class PromptEncoder(PeftModel model, DiffusionModel parts, AdapterSelection? selection = null)
{
    /// <summary>Encodes a prompt and what it should not show, in as many chunks as the longer of them takes.</summary>
    /// <param name="prompt">The prompt.</param>
    /// <param name="negative">What it should not show; null for nothing.</param>
    /// <param name="options">How.</param>
    /// <param name="cancellation">Looked at between blocks.</param>
    /// <exception cref="PeftException"><c>TokenizerMissing</c> or <c>ImageOptionsInvalid</c>: more blocks are left out than there are.</exception>
    public (PromptStates Prompt, PromptStates Negative) Encode(string prompt, string? negative, ImageOptions options, CancellationToken cancellation)
    {
        var context = model.NewPass(new ForwardContext { KeepsHiddenStates = true, Cancellation = cancellation }, selection);
        List<(Tensor Prompt, Tensor Negative)> states = [];
        (Tensor Prompt, Tensor Negative)? pooled = null;
        for (var i = 0; i < parts.TextEncoders.Count; i++)
        {
            var encoder = parts.TextEncoders[i];
            var tokens = Tokens(i, prompt, options);
            var without = Tokens(i, negative ?? "", options);
            var chunks = Math.Max(tokens.Ids.Count, without.Ids.Count);

            // As in diffusers, blocks are left out for the prompt alone.
            var (wanted, unwanted) = (Encode(encoder, tokens.WithChunks(chunks), options.ClipSkip, context), Encode(encoder, without.WithChunks(chunks), 0, context));
            states.Add((wanted.States, unwanted.States));
            pooled = wanted.Pooled is { } first ? (first, unwanted.Pooled!) : pooled;
        }

        var positive = new PromptStates(Joined(states.Select(static pair => pair.Prompt)), pooled?.Prompt);
        var other = new PromptStates(Joined(states.Select(static pair => pair.Negative)), pooled?.Negative);
        return (positive, negative is null && parts.Config.Boolean("force_zeros_for_empty_prompt") == true
            ? new PromptStates(zeros_like(other.States), other.Pooled is { } vector ? zeros_like(vector) : null)
            : other);
    }

    private static Tensor Joined(IEnumerable<Tensor> states) => states.ToArray() is [var only] ? only : cat([.. states], 2);

    private PromptTokens Tokens(int encoder, string text, ImageOptions options) =>
        PromptTokens.Of(
            parts.TokenizerOf(encoder), text, parts.TextLength(encoder), options.WeighsWords, options.TruncatesPrompts ? 1 : null, PromptWords.Of(parts.TextEncoders[encoder], selection ?? model.CurrentSelection));

    private (Tensor States, Tensor? Pooled) Encode(PretrainedModel encoder, PromptTokens tokens, int skipped, ForwardContext context)
    {
        var output = encoder.Forward(tokens.ToTensor(model.Device), context);
        var inner = output.In(context);
        var states = parts.IsLarge ? Before(output, skipped + 1)
            : skipped > 0 ? ((ClipTextModel)encoder.Backbone).FinalNorm.Forward(Before(output, skipped), inner)
            : output.Hidden;

        // Of several chunks the first is pooled, as it names what the picture shows.
        var pooled = encoder is ClipTextProjectionModel projected ? projected.Project(output, inner).narrow(0, 0, 1) : null;
        return (tokens.Weigh(states.view(output.Rows, output.Length, -1)), pooled);
    }

    /// <summary>The states before the last blocks.</summary>
    private static Tensor Before(BackboneOutput output, int blocks) => output.HiddenStates is { } all && blocks < all.Count ? all[^(blocks + 1)]
        : throw new PeftException("ImageOptionsInvalid", FormattableString.Invariant($"The text encoder has no {blocks} blocks that could be left out.")) { Target = nameof(ImageOptions.ClipSkip) };
}
