using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Asking;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Generation;
using Peft.Models;
using Peft.Tokenization.ChatTemplates;

namespace Peft.Cmdlets.Commands.Text;

/// <summary>Invoke-TextGeneration: continues texts.</summary>
[Cmdlet(VerbsLifecycle.Invoke, "TextGeneration", DefaultParameterSetName = ModelSet)]
[OutputType(typeof(GenerationResult), typeof(string))]
public sealed class InvokeTextGenerationCommand : GenerationCommand
{
    private readonly List<ReadPrompt> _waiting = [];
    private Request? _request;
    private (PeftModel Model, PeftAdapter? Adapter, int Version)? _refused;
    private bool _hinted;

    /// <summary>
    /// Texts to continue, or files from Get-ChildItem. Tables and objects, such as Import-Csv gives them, are rows: they get the form that the adapter was
    /// trained with, or that of <c>-Template</c>.
    /// </summary>
    [Parameter(Position = 0, ValueFromPipeline = true)]
    [Alias("Row", "InputObject")]
    [AllowEmptyString]
    [ValidateNotNull]
    public PSObject[] Prompt { get; set; } = [];

    /// <summary>A conversation to continue, in order: tables or objects with a <c>role</c> and a <c>content</c>; texts are the user's. It is put into the model's chat template.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public PSObject[]? Message { get; set; }

    /// <summary>Makes prompts of rows: text with columns in braces, such as <c>Question: {question} Answer:</c>, in place of the form that the adapter remembers.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(PromptTemplateCompleter))]
    [ValidateNotNullOrEmpty]
    public string? Template { get; set; }

    /// <summary>Adapters that act for this command, in order, whatever is active on the model; wildcards are allowed, and <c>base</c> for none.</summary>
    [Parameter(ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterOrBaseCompleter))]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_name")]
    public string[]? AdapterName { get; set; }

    /// <summary>Takes each prompt as a user's message and puts it into the model's chat template.</summary>
    [Parameter]
    public SwitchParameter Chat { get; set; }

    /// <summary>With <c>-Chat</c>, <c>-Message</c> or an adapter that was trained on conversations, the system's message before the user's. Without it the one that all of the adapter's training began with, where there is one.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public string? SystemMessage { get; set; }

    /// <summary>Goes on with the last message of <c>-Message</c>, such as the beginning of the assistant's answer, where without it a new turn of the assistant's begins behind it.</summary>
    [Parameter]
    [Alias("continue_final_message")]
    public SwitchParameter ContinueFinalMessage { get; set; }

    /// <summary>Prompts that are continued at once: those of the pipeline wait until there are so many, or no more come.</summary>
    [Parameter]
    [ValidateRange(1, int.MaxValue)]
    [PSDefaultValue(Value = 8, Help = "8")]
    public int BatchSize { get; set; } = 8;

    /// <summary>Puts pieces of text out as soon as they are certain, in place of whole results; for one prompt at a time.</summary>
    [Parameter]
    public SwitchParameter Stream { get; set; }

    /// <inheritdoc/>
    protected override void Begin()
    {
        if (Template is not null && (Chat || Message is not null))
        {
            throw new PeftException("ParametersContradict", "-Template makes prompts of rows; -Chat and -Message take the model's chat template.")
            {
                Target = Template,
                RecommendedAction = "Leave one of them out.",
            };
        }

        if (ContinueFinalMessage && Message is null)
        {
            throw new PeftException("ParametersContradict", "-ContinueFinalMessage goes on with the last message of -Message, which wasn't given.")
            {
                Target = nameof(ContinueFinalMessage),
                RecommendedAction = "Give the conversation with -Message, or leave -ContinueFinalMessage out.",
            };
        }
    }

    /// <inheritdoc/>
    protected override void Process()
    {
        var wanted = (TheModel, ParameterSetName == AdapterSet ? Adapter : null, TheModel.Version);
        if (_refused == wanted)
        {
            // What is wrong with the command was said with the first prompt.
            return;
        }

        if (_request is null || _request.Key != wanted)
        {
            Flush();
            _refused = wanted;
            var selection = SelectionOf(AdapterName) ?? TheModel.CurrentSelection;
            var form = Template is null ? FormOf(AdapterName) : new PromptForm { Template = new PromptTemplate(Template) };
            if (SystemMessage is not null && !Chat && Message is null && form is not { IsChat: true })
            {
                throw new PeftException("ParametersContradict", "-SystemMessage says nothing without -Chat: only a chat template has a place for it.")
                {
                    Target = SystemMessage,
                    RecommendedAction = "Add -Chat, or write the message into the prompt.",
                };
            }

            _request = new Request(wanted, new TextGenerator(TheModel), ReadOptions(), selection, new PromptReader(TheModel, form, Chat, SystemMessage));
            _refused = null;
        }

        // The model itself, or the adapter, arrives as a prompt as well where it comes down the pipeline.
        PSObject[] prompts = [.. Prompt.Where(static prompt => prompt.BaseObject is not (PeftModel or PeftAdapter))];
        if (prompts.Length == 0 && Message is null)
        {
            throw new PeftException("TextMissing", "There is no text to continue.") { RecommendedAction = "Give a -Prompt, a -Row or a -Message." };
        }

        if (Message is not null)
        {
            List<ChatMessage> messages = [.. Message.Select(MessageOf)];
            if (messages[^1].Role == "assistant" && !Given(nameof(ContinueFinalMessage)))
            {
                WriteWarning("The conversation ends with the assistant's message, and a new turn of the assistant's begins behind it. -ContinueFinalMessage goes on with that message.");
            }

            Add(_request, cancellation => _request.Reader.Conversation(messages, cancellation, ContinueFinalMessage));
        }

        Each(prompts, prompt => Add(_request, cancellation => _request.Reader.Read(prompt, cancellation)));
    }

    private static ChatMessage MessageOf(PSObject item) => item.BaseObject is string text ? new("user", text) : TextInput.Message(item)
        ?? throw new PeftException("ChatMessageInvalid", "A message of a conversation needs a role and a content.")
        {
            Target = item,
            RecommendedAction = "Give @{ role = 'user'; content = '…' }, or a text for the user's message.",
        };

    private void Add(Request request, Func<CancellationToken, ReadPrompt> read)
    {
        var (prompt, hint) = Run(output =>
        {
            var prompt = read(output.Cancellation);
            return (prompt, !_hinted && prompt.IsPlain ? request.Reader.HintAt(prompt.Text, AskedNames(), output.Cancellation) : null);
        });
        if (hint is not null)
        {
            _hinted = true;
            WriteWarning(hint);
        }

        if (_waiting.Count > 0 && _waiting[0].TaskId != prompt.TaskId)
        {
            // A batch is of one task.
            Flush();
        }

        _waiting.Add(prompt);
        if (Stream || _waiting.Count == BatchSize)
        {
            Flush();
        }
    }

    private string AskedNames() => string.Join(" and ", Acting(AdapterName).Select(static adapter => $"'{adapter.Name}'"));

    /// <inheritdoc/>
    protected override void End() => Flush();

    /// <summary>Continues the prompts that wait for each other, in one batch.</summary>
    private void Flush()
    {
        if (_waiting.Count > 0)
        {
            ReadPrompt[] batch = [.. _waiting];
            _waiting.Clear();
            Each([_request!], what => Generate(what, batch));
        }
    }

    private void Generate(Request what, ReadPrompt[] batch)
    {
        var results = Run(output =>
        {
            var progress = new ProgressLine(output, "Generating text");
            var total = (long)(what.Options.MaxNewTokens ?? what.Options.MaxLength ?? GenerationOptions.StandardLength) * batch.Length;
            var added = 0L;
            void Show(GenerationChunk chunk)
            {
                added++;
                if (!Stream)
                {
                    progress.Show(added, total, FormattableString.Invariant($"{added} tokens"));
                }
                else if (chunk.Text.Length > 0)
                {
                    output.WriteObject(chunk.Text);
                }
            }

            var results = what.Generator.Generate([.. batch.Select(static prompt => prompt.Ids)], what.Options with { TaskId = batch[0].TaskId ?? what.Options.TaskId }, what.Selection, Show, output.Cancellation);
            progress.Complete();
            return results;
        });
        WarnBeyondContext(what.Key.Model, results);
        if (results.Any(static result => !result.IsFinite))
        {
            WriteWarning($"What '{what.Key.Model.Name}' computed is no number (NaN or infinity), so the text says nothing: load the files again, compute in float32, or switch off the adapter.");
        }

        if (!Stream)
        {
            WriteObject(results.Select((result, index) => result with { Prompt = batch[index / what.Options.ReturnCount].Text }), enumerateCollection: true);
        }
    }

    /// <summary>Says that texts went beyond what the model was made for, where it computes on but seldom makes sense.</summary>
    private void WarnBeyondContext(PeftModel model, IReadOnlyList<GenerationResult> results)
    {
        var longest = results.Max(static result => result.PromptTokens + result.TokenIds.Count);
        if (model.Config.Integer("max_position_embeddings") is { } limit && longest > limit)
        {
            WriteWarning(FormattableString.Invariant(
                $"'{model.Name}' was made for {limit:N0} tokens, prompt and continuation together; the longest text here has {longest:N0}, and what lies beyond is seldom any good."));
        }
    }

    /// <summary>How prompts are continued. What changes the model between two prompts makes another request.</summary>
    private sealed record Request((PeftModel Model, PeftAdapter? Adapter, int Version) Key, TextGenerator Generator, GenerationOptions Options, AdapterSelection Selection, PromptReader Reader);
}
