using System.Globalization;
using System.Management.Automation;
using Peft.Generation;
using Peft.Module.Completion;
using Peft.Tokenization.ChatTemplates;

namespace Peft.Module.Commands;

/// <summary>Invoke-TextGeneration: continues texts.</summary>
[Cmdlet(VerbsLifecycle.Invoke, "TextGeneration", DefaultParameterSetName = ModelSet)]
[OutputType(typeof(GenerationResult), typeof(string))]
public sealed class InvokeTextGenerationCommand : GenerationCommand
{
    /// <summary>Texts to continue.</summary>
    [Parameter(Mandatory = true, Position = 0, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    [AllowEmptyString]
    public string[] Prompt { get; set; } = [];

    /// <summary>Adapters that act for this command, in order, whatever is active on the model; <c>base</c> for none.</summary>
    [Parameter(ParameterSetName = ModelSet)]
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

    /// <summary>Prompts that are continued at once.</summary>
    [Parameter]
    [ValidateRange(1, int.MaxValue)]
    [PSDefaultValue(Value = 8, Help = "8")]
    public int BatchSize { get; set; } = 8;

    /// <summary>Puts pieces of text out as soon as they are certain, in place of whole results; for one prompt at a time.</summary>
    [Parameter]
    public SwitchParameter Stream { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        var options = Options();
        var selection = SelectionOf(AdapterName);
        foreach (var prompts in Prompt.Chunk(Stream ? 1 : BatchSize))
        {
            var results = Run(output =>
            {
                var progress = new ProgressLine(output, "Generating text");
                var added = 0;
                void Show(GenerationChunk chunk)
                {
                    added++;
                    if (Stream)
                    {
                        if (chunk.Text.Length > 0)
                        {
                            output.WriteObject(chunk.Text);
                        }
                    }
                    else
                    {
                        progress.Show(added, options.MaxNewTokens * prompts.Length, string.Create(CultureInfo.InvariantCulture, $"{added} tokens"));
                    }
                }

                var generator = new TextGenerator(TheModel);
                var results = Chat
                    ? generator.Generate([.. prompts.Select(Encode)], options, selection, Show, output.Cancellation)
                        .Select((result, index) => result with { Prompt = prompts[index] }).ToList()
                    : generator.Generate(prompts, options, selection, Show, output.Cancellation);
                progress.Complete();
                return results;
            });
            if (!Stream)
            {
                WriteObject(results, enumerateCollection: true);
            }
        }
    }

    private IReadOnlyList<int> Encode(string prompt)
    {
        var tokenizer = TokenizerOf(TheModel);
        ChatMessage[] messages = SystemMessage is null ? [new("user", prompt)] : [new("system", SystemMessage), new("user", prompt)];
        return tokenizer.EncodeIds(tokenizer.ApplyChatTemplate(messages, addGenerationPrompt: true), addSpecialTokens: false);
    }
}
