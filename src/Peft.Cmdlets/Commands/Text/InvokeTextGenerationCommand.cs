using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Model;
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
    private readonly List<(string Text, IReadOnlyList<int> Ids)> _waiting = [];
    private Request? _request;

    /// <summary>Texts to continue.</summary>
    [Parameter(Mandatory = true, Position = 0, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    [AllowEmptyString]
    public string[] Prompt { get; set; } = [];

    /// <summary>Adapters that act for this command, in order, whatever is active on the model; wildcards are allowed, and <c>base</c> for none.</summary>
    [Parameter(ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterOrBaseCompleter))]
    [ValidateNotNullOrEmpty]
    public string[]? AdapterName { get; set; }

    /// <summary>Takes each prompt as a user's message and puts it into the model's chat template.</summary>
    [Parameter]
    public SwitchParameter Chat { get; set; }

    /// <summary>With <c>-Chat</c>, the system's message before the user's.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public string? SystemMessage { get; set; }

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
        if (SystemMessage is not null && !Chat)
        {
            throw new PeftException("ParametersContradict", "-SystemMessage says nothing without -Chat: only a chat template has a place for it.")
            {
                Target = SystemMessage,
                RecommendedAction = "Add -Chat, or write the message into the prompt.",
            };
        }
    }

    /// <inheritdoc/>
    protected override void Process()
    {
        var wanted = (TheModel, ParameterSetName == AdapterSet ? Adapter : null, TheModel.Version);
        if (_request is null || _request.Key != wanted)
        {
            Flush();
            _request = new Request(wanted, new TextGenerator(TheModel), Options(), SelectionOf(AdapterName) ?? TheModel.CurrentSelection);
        }

        Each(Prompt, prompt =>
        {
            _waiting.Add((prompt, Encode(_request, prompt)));
            if (Stream || _waiting.Count == BatchSize)
            {
                Flush();
            }
        });
    }

    /// <inheritdoc/>
    protected override void End() => Flush();

    /// <summary>Continues the prompts that wait for each other, in one batch.</summary>
    private void Flush()
    {
        if (_waiting.Count > 0)
        {
            (string Text, IReadOnlyList<int> Ids)[] batch = [.. _waiting];
            _waiting.Clear();
            Each([_request!], what => Generate(what, batch));
        }
    }

    private void Generate(Request what, (string Text, IReadOnlyList<int> Ids)[] batch)
    {
        var results = Run(output =>
        {
            var progress = new ProgressLine(output, "Generating text");
            var total = (long)what.Options.MaxNewTokens * batch.Length;
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

            var results = what.Generator.Generate([.. batch.Select(static prompt => prompt.Ids)], what.Options, what.Selection, Show, output.Cancellation);
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
            WriteObject(results.Select((result, index) => result with { Prompt = batch[index].Text }), enumerateCollection: true);
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

    private IReadOnlyList<int> Encode(Request what, string prompt) => Run(output => Encode(what, prompt, output.Cancellation));

    private IReadOnlyList<int> Encode(Request what, string prompt, CancellationToken cancellation)
    {
        if (!Chat)
        {
            return what.Generator.Encode(prompt);
        }

        var tokenizer = what.Key.Model.RequiredTokenizer;
        ChatMessage[] messages = SystemMessage is null ? [new("user", prompt)] : [new("system", SystemMessage), new("user", prompt)];
        return tokenizer.EncodeIds(tokenizer.ApplyChatTemplate(messages, addGenerationPrompt: true, cancellation), addSpecialTokens: false);
    }

    /// <summary>How prompts are continued. What changes the model between two prompts makes another request.</summary>
    private sealed record Request((PeftModel Model, PeftAdapter? Adapter, int Version) Key, TextGenerator Generator, GenerationOptions Options, AdapterSelection Selection);
}
