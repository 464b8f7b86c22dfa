using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tokenization;
using static TorchSharp.torch;

namespace Peft.Generation;

/// <summary>Continues texts with a model and the adapters that are active on it.</summary>
public sealed class TextGenerator
{
    private readonly PeftModel _model;
    private readonly long _vocabularySize;

    /// <summary>Makes a generator for a causal language model, or for an encoder with a decoder, which writes of what it reads.</summary>
    /// <exception cref="PeftException"><c>ModelCannotGenerate</c>: the model isn't one.</exception>
    public TextGenerator(PeftModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        _model = model;
        _vocabularySize = model.Base is SequenceToSequenceModel sequences ? sequences.VocabularySize : RequireNetwork(model).VocabularySize;
    }

    /// <summary>Continues texts, in one batch.</summary>
    /// <param name="prompts">At least one text.</param>
    /// <param name="options">How to continue.</param>
    /// <param name="selection">Which adapters act; null for those active on the model.</param>
    /// <param name="onChunk">Sees each piece of text as soon as it is certain, on the thread that decodes.</param>
    /// <param name="cancellation">Ends the work between two layers.</param>
    /// <returns>One result a prompt, or as many as the options ask for, in the prompts' order.</returns>
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

    /// <summary>Scores over the vocabulary for the token after a prompt, float32 [vocabulary]; the caller owns it.</summary>
    internal Tensor NextScores(string prompt, AdapterSelection? selection, CancellationToken cancellation)
    {
        using var lease = _model.Acquire("comparing outputs");
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var options = new GenerationOptions { UseCache = false };
        using var next = NextTokens.Of(_model, selection ?? _model.CurrentSelection, options, PadTokenId());
        return next.Scores(Rows([Encode(prompt)], options, [], 1), cancellation).view(-1).to_type(ScalarType.Float32).clone().MoveToOuterDisposeScope();
    }

    internal static CausalModel RequireNetwork(PeftModel model) => model.Base as CausalModel ?? throw new PeftException(
        "ModelCannotGenerate", $"'{model.Name}' is a {model.Base.ClassName}, which does not predict text.")
    {
        Target = model.Name,
        RecommendedAction = "Import a model with a head for text: with -TaskType CAUSAL_LM, or SEQ_2_SEQ_LM where it has an encoder and a decoder.",
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
        using var next = NextTokens.Of(_model, selection ?? _model.CurrentSelection, options, options.PadTokenId ?? PadTokenId());
        return options.BeamCount > 1
            ? Search(next, Rows(ids, options, endOfText, 1), prompts, tokenizer, options, endOfText, onChunk, cancellation)
            : Continue(next, Rows(ids, options, endOfText, options.ReturnCount), prompts, tokenizer, options, endOfText, onChunk, cancellation);
    }

    /// <summary>The rows to begin with, some for each prompt.</summary>
    private DecodeRow[] Rows(IReadOnlyList<IReadOnlyList<int>> ids, GenerationOptions options, IReadOnlyList<int> endOfText, int each)
    {
        int[]? start = _model.Base is SequenceToSequenceModel sequences ? [options.DecoderStartId ?? sequences.DecoderStartId] : null;
        return
        [
            .. ids.SelectMany((prompt, index) => Enumerable.Range(index * each, each).Select(row => new DecodeRow(
                index, prompt, start ?? prompt, new TokenSampler(options, endOfText, row, prompt, (start ?? prompt).Count)))),
        ];
    }

    private static GenerationResult[] Continue(
        NextTokens next,
        DecodeRow[] rows,
        IReadOnlyList<string>? prompts,
        Tokenizer? tokenizer,
        GenerationOptions options,
        IReadOnlyList<int> endOfText,
        Action<GenerationChunk>? onChunk,
        CancellationToken cancellation)
    {
        var streams = rows.ToDictionary(static row => row, row => tokenizer is null ? null : new TextStream(tokenizer, options));
        new DecodeLoop(next, options, endOfText).Run(rows, (row, id) => Add(row, id, streams[row], endOfText, onChunk), cancellation);
        return [.. rows.Select(row => Result(row, prompts?[row.Index], streams[row]?.Text))];
    }

    /// <summary>Searches; texts are certain when the search ends, and come as one piece each.</summary>
    private static GenerationResult[] Search(
        NextTokens next,
        DecodeRow[] rows,
        IReadOnlyList<string>? prompts,
        Tokenizer? tokenizer,
        GenerationOptions options,
        IReadOnlyList<int> endOfText,
        Action<GenerationChunk>? onChunk,
        CancellationToken cancellation)
    {
        var found = new BeamSearch(next, options, endOfText).Run(
            rows,
            row => options.StopStrings.Count > 0 && Stream(row)!.IsStopped ? FinishReason.StopString : null,
            row => onChunk?.Invoke(new GenerationChunk(row.Index, "", row.Ids[^1])),
            cancellation);
        var results = found.Select(row => Result(row, prompts?[row.Index], Stream(row)?.Text)).ToArray();
        for (var i = 0; i < results.Length; i++)
        {
            onChunk?.Invoke(new GenerationChunk(found[i].Index, results[i].Text, found[i].Ids[^1]));
        }

        return results;

        TextStream? Stream(DecodeRow row)
        {
            if (tokenizer is null)
            {
                return null;
            }

            var stream = new TextStream(tokenizer, options);
            foreach (var id in row.Ids.Skip(row.StartLength).TakeWhile(id => !stream.IsStopped && !endOfText.Contains(id)))
            {
                stream.Append(id);
            }

            if (!stream.IsStopped)
            {
                stream.Finish();
            }

            return stream;
        }
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

    private static GenerationResult Result(DecodeRow row, string? prompt, string? text) => new(
        prompt, text ?? "", Values.Of(row.Ids.Skip(row.StartLength)), row.Source.Count, row.Finished ?? FinishReason.Length)
    {
        Score = row.Score,
        IsFinite = row.IsFinite,
    };

    /// <summary>Padding is masked, so any token will do where the model's own lies outside its vocabulary (-1 in some published files).</summary>
    private int PadTokenId() => _model.Config.Integer("pad_token_id") is { } id && id >= 0 && id < _vocabularySize ? (int)id : 0;

    private IReadOnlyList<int> EndOfTextIds() => _model.EndOfTextIds;
}
