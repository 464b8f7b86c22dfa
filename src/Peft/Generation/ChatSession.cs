using System.Diagnostics;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Tokenization.ChatTemplates;

namespace Peft.Generation;

/// <summary>What was said at one turn of a conversation.</summary>
/// <param name="Role">Who spoke: <c>system</c>, <c>user</c> or <c>assistant</c>.</param>
/// <param name="Content">What was said.</param>
public sealed record ChatTurn(string Role, string Content)
{
    /// <summary>The adapters that answered, in order; empty for the base alone, null where no model spoke.</summary>
    public IReadOnlyList<string>? Adapters { get; init; }

    /// <summary>Tokens of the answer; null where no model spoke.</summary>
    public int? TokenCount { get; init; }

    /// <summary>How long the answer took; null where no model spoke.</summary>
    public TimeSpan? Duration { get; init; }

    /// <summary>The same as a message for a chat template.</summary>
    public ChatMessage ToMessage() => new(Role, Content);

    /// <inheritdoc/>
    public override string ToString() => $"{Role}: {Content}";
}

/// <summary>A conversation with a model: it is asked with everything that was said before, in the form of its chat template.</summary>
public sealed class ChatSession
{
    private readonly PeftModel _model;
    private readonly TextGenerator _generator;
    private readonly List<ChatTurn> _turns = [];

    /// <summary>Begins a conversation.</summary>
    /// <param name="model">The model.</param>
    /// <exception cref="PeftException"><c>ModelCannotGenerate</c>, <c>TokenizerMissing</c> or <c>ChatTemplateMissing</c>.</exception>
    public ChatSession(PeftModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        _model = model;
        _generator = new TextGenerator(model);
        if (!model.RequiredTokenizer.HasChatTemplate)
        {
            throw new PeftException("ChatTemplateMissing", $"'{model.Name}' has no chat template, so a conversation has no form.")
            {
                Target = model.Name,
                RecommendedAction = "Use Invoke-TextGeneration with a prompt, or a model that was made for conversations.",
            };
        }
    }

    /// <summary>What was said, in order.</summary>
    public IReadOnlyList<ChatTurn> Turns => _turns;

    /// <summary>What the system says before all else; null for nothing.</summary>
    public string? SystemMessage { get; set; }

    /// <summary>Adds what was said elsewhere.</summary>
    /// <param name="role">Who spoke.</param>
    /// <param name="content">What was said.</param>
    public void Add(string role, string content) => _turns.Add(new ChatTurn(role, content));

    /// <summary>Lets the model answer. A cancelled answer leaves the conversation as it was.</summary>
    /// <param name="text">What the user says.</param>
    /// <param name="options">How the answer is made.</param>
    /// <param name="selection">Which adapters act; null for those active on the model.</param>
    /// <param name="onText">Sees each piece of the answer as soon as it is certain.</param>
    /// <param name="cancellation">Ends the work.</param>
    /// <returns>The answer, which is also in <see cref="Turns"/>, with the number of tokens of the whole conversation.</returns>
    public (ChatTurn Answer, int TotalTokens) Ask(
        string text, GenerationOptions options, AdapterSelection? selection = null, Action<string>? onText = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(text);
        var clock = Stopwatch.StartNew();
        var question = new ChatTurn("user", text);
        var tokenizer = _model.RequiredTokenizer;
        ChatMessage[] messages = [.. SystemMessage is { } system ? [new ChatMessage("system", system)] : Array.Empty<ChatMessage>(), .. _turns.Append(question).Select(static turn => turn.ToMessage())];
        var ids = tokenizer.EncodeIds(tokenizer.ApplyChatTemplate(messages, addGenerationPrompt: true, cancellation), addSpecialTokens: false);
        selection ??= _model.CurrentSelection;
        var result = _generator.Generate([ids], options, selection, chunk => onText?.Invoke(chunk.Text), cancellation)[0];
        var answer = new ChatTurn("assistant", result.Text.Trim())
        {
            Adapters = [.. selection.Order.Select(static active => active.Name)],
            TokenCount = result.TokenIds.Count,
            Duration = clock.Elapsed,
        };
        _turns.AddRange([question, answer]);
        return (answer, result.PromptTokens + result.TokenIds.Count);
    }

    /// <summary>Takes the last question back, with its answer.</summary>
    /// <returns>Whether there was one.</returns>
    public bool Undo()
    {
        var last = _turns.FindLastIndex(static turn => turn.Role == "user");
        if (last >= 0)
        {
            _turns.RemoveRange(last, _turns.Count - last);
        }

        return last >= 0;
    }

    /// <summary>Begins anew.</summary>
    public void Clear() => _turns.Clear();
}
