using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tokenization;

namespace Peft.Generation;

/// <summary>Continues texts with a model and the adapters that are active on it.</summary>
public sealed class TextGenerator
{
    private readonly PeftModel _model;
    private readonly CausalModel _network;

    /// <summary>Makes a generator for a causal language model.</summary>
    /// <exception cref="PeftException"><c>ModelCannotGenerate</c>: the model isn't one.</exception>
    public TextGenerator(PeftModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        _model = model;
        _network = RequireNetwork(model);
    }

    /// <summary>Continues texts, in one batch.</summary>
    /// <param name="prompts">At least one text.</param>
    /// <param name="options">How to continue.</param>
    /// <param name="selection">Which adapters act; null for those active on the model.</param>
    /// <param name="onChunk">Sees each piece of text as soon as it is certain, on the thread that decodes.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    /// <returns>One result a prompt, in their order.</returns>
    /// <exception cref="PeftException"><c>TokenizerMissing</c>, <c>PromptEmpty</c>, <c>GenerationOptionInvalid</c>, <c>PeftModelBusy</c>.</exception>
    public IReadOnlyList<GenerationResult> Generate(
        IReadOnlyList<string> prompts,
        GenerationOptions options,
        AdapterSelection? selection = null,
        Action<GenerationChunk>? onChunk = null,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(prompts);
        return Generate([.. prompts.Select(Encode)], prompts, _model.Tokenizer, options, selection, onChunk, cancellation);
    }

    /// <summary>The ids of a prompt; those of an empty one are what begins a text.</summary>
    /// <exception cref="PeftException"><c>TokenizerMissing</c> or <c>PromptEmpty</c>.</exception>
    public IReadOnlyList<int> Encode(string prompt) => EncodePrompt(_model.RequiredTokenizer, prompt);

    /// <summary>Continues rows of ids, in one batch. Needs no tokenizer unless there are stop strings.</summary>
    /// <inheritdoc cref="Generate(IReadOnlyList{string}, GenerationOptions, AdapterSelection?, Action{GenerationChunk}?, CancellationToken)"/>
    public IReadOnlyList<GenerationResult> Generate(
        IReadOnlyList<IReadOnlyList<int>> prompts,
        GenerationOptions options,
        AdapterSelection? selection = null,
        Action<GenerationChunk>? onChunk = null,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        var tokenizer = options.StopStrings.Count > 0 ? _model.RequiredTokenizer : _model.Tokenizer;
        return Generate(prompts, null, tokenizer, options, selection, onChunk, cancellation);
    }

    internal static CausalModel RequireNetwork(PeftModel model) => model.Base as CausalModel ?? throw new PeftException(
        "ModelCannotGenerate", $"'{model.Name}' is a {model.Base.ClassName}, which does not predict text.")
    {
        Target = model.Name,
        RecommendedAction = "Import a causal language model.",
    };

    /// <summary>As <see cref="Encode"/>, of a tokenizer.</summary>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <param name="prompt">The prompt.</param>
    /// <exception cref="PeftException"><c>PromptEmpty</c>.</exception>
    public static int[] EncodePrompt(Tokenizer tokenizer, string prompt)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        var ids = tokenizer.EncodeWhole(prompt);
        if (ids.Length == 0 && tokenizer.BosTokenId is { } begin)
        {
            return [begin];
        }

        return ids.Length > 0 ? ids : throw PromptEmpty("An empty prompt has no tokens, and this tokenizer has no token that begins a text.");
    }

    private static PeftException PromptEmpty(string message) => new("PromptEmpty", message) { RecommendedAction = "Give a prompt of at least one character." };

    private GenerationResult[] Generate(
        IReadOnlyList<IReadOnlyList<int>> ids,
        IReadOnlyList<string>? prompts,
        Tokenizer? tokenizer,
        GenerationOptions options,
        AdapterSelection? selection,
        Action<GenerationChunk>? onChunk,
        CancellationToken cancellation)
    {
        options.Validate();
        if (ids.Count == 0)
        {
            return [];
        }

        if (ids.Any(static row => row.Count == 0))
        {
            throw PromptEmpty("A prompt has no tokens.");
        }

        using var lease = _model.Acquire("text generation");
        var endOfText = options.EndOfTextIds.Count > 0 ? options.EndOfTextIds : EndOfTextIds();
        var rows = ids.Select((row, index) => new DecodeRow(index, row, new TokenSampler(options, endOfText, index))).ToArray();
        var streams = rows.Select(_ => tokenizer is null ? null : new TextStream(tokenizer, options)).ToArray();
        var loop = new DecodeLoop(
            _model, _network, selection ?? _model.CurrentSelection, options, endOfText, options.PadTokenId ?? PadTokenId());
        loop.Run(rows, (row, id) => Add(row, id, streams[row.Index], endOfText, onChunk), _model.Device, cancellation);
        return [.. rows.Select(row => Result(row, prompts?[row.Index], streams[row.Index]))];
    }

    private static void Add(DecodeRow row, int id, TextStream? stream, IReadOnlyList<int> endOfText, Action<GenerationChunk>? onChunk)
    {
        if (stream is null)
        {
            onChunk?.Invoke(new GenerationChunk(row.Index, "", id));
            return;
        }

        var text = endOfText.Contains(id) ? "" : stream.Append(id);
        if (stream.IsStopped)
        {
            row.Finished = FinishReason.StopString;
        }
        else if (row.Finished is not null)
        {
            text += stream.Finish();
        }

        onChunk?.Invoke(new GenerationChunk(row.Index, text, id));
    }

    private static GenerationResult Result(DecodeRow row, string? prompt, TextStream? stream) => new(
        prompt, stream?.Text ?? "", Values.Of(row.Ids.Skip(row.PromptLength)), row.PromptLength, row.Finished ?? FinishReason.Length)
    {
        IsFinite = row.IsFinite,
    };

    /// <summary>Padding is masked, so any token will do where the model's own lies outside its vocabulary (-1 in some published files).</summary>
    private int PadTokenId() => _model.Config.Integer("pad_token_id") is { } id && id >= 0 && id < _network.VocabularySize ? (int)id : 0;

    private IReadOnlyList<int> EndOfTextIds() => _model.EndOfTextIds;
}
