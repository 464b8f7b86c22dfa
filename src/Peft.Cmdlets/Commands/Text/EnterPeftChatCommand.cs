using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Generation;
using Peft.Models;

namespace Peft.Cmdlets.Commands.Text;

/// <summary>Enter-PeftChat: a conversation with a model at the prompt.</summary>
[Cmdlet(VerbsCommon.Enter, "PeftChat", DefaultParameterSetName = ModelSet)]
[OutputType(typeof(ChatTurn))]
public sealed class EnterPeftChatCommand : GenerationCommand
{
    private static readonly (string Name, string Does)[] s_commands =
    [
        ("/adapter [NAME, ...]", "answers with these adapters from now on; 'base' for none; without a name lists them"),
        ("/system [TEXT]", "sets the system's message, or takes it away"),
        ("/undo", "takes the last question and its answer back"),
        ("/new", "begins anew"),
        ("/exit", "ends the conversation and puts it out as objects"),
    ];

    private readonly List<ChatTurn> _earlier = [];
    private AdapterSelection? _selection;

    /// <summary>The model, with the adapters that are active on it; a loaded model's name does as well.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = ModelSet, ValueFromPipeline = true)]
    [ModelArgument]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    public override PeftModel Model { get; set; } = null!;

    /// <summary>An adapter: it answers alone, until <c>/adapter</c> chooses others.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = AdapterSet, ValueFromPipeline = true)]
    [AdapterArgument]
    [ArgumentCompleter(typeof(AdapterCompleter))]
    public override PeftAdapter Adapter { get; set; } = null!;

    /// <summary>Adapters that answer, whatever is active on the model; wildcards are allowed, and <c>base</c> for none.</summary>
    [Parameter(ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterOrBaseCompleter))]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_name")]
    public string[]? AdapterName { get; set; }

    /// <summary>The system's message, before all others.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public string? SystemMessage { get; set; }

    /// <summary>What was said before, to go on from: turns of an earlier conversation, or tables with a <c>role</c> and a <c>content</c>.</summary>
    [Parameter]
    [ValidateNotNull]
    public PSObject[] Message { get; set; } = [];

    /// <inheritdoc/>
    protected override void Process()
    {
        var session = new ChatSession(TheModel) { SystemMessage = SystemMessage };
        var options = ReadOptions();
        _selection = SelectionOf(AdapterName);
        foreach (var item in Message)
        {
            var message = TextInput.Message(item) ?? throw new PeftException("ChatMessageInvalid", "A message of a conversation needs a role and a content.") { Target = item };
            session.Add(message.Role, message.Content ?? "");
        }

        Say($"'{TheModel.Name}' listens ({Answering()}). /help lists what else you can type; /exit ends.\n");
        while (Read() is { } line)
        {
            if (line is "/exit" or "/quit" or "/bye")
            {
                break;
            }

            Each([line], text => Take(text, session, options));
        }

        WriteObject(_earlier.Concat(session.Turns), enumerateCollection: true);
        _earlier.Clear();
    }

    private string? Read()
    {
        Say("> ");
        return Host.UI.ReadLine()?.Trim();
    }

    private void Take(string line, ChatSession session, GenerationOptions options)
    {
        if (line.Length == 0)
        {
            return;
        }

        if (line[0] == '/')
        {
            var space = line.IndexOf(' ', StringComparison.Ordinal);
            Obey(space < 0 ? line : line[..space], space < 0 ? "" : line[space..].Trim(), session);
            return;
        }

        var total = Run(output =>
        {
            var (answer, tokens) = session.Ask(line, options, _selection, output.WriteHost, output.Cancellation);
            output.WriteHost(answer.Content.Length > 0 ? "\n" : "(nothing)\n");
            return tokens;
        });
        if (TheModel.Config.Integer("max_position_embeddings") is { } limit && total > limit)
        {
            WriteWarning(FormattableString.Invariant($"The conversation has {total:N0} tokens, and '{TheModel.Name}' was made for {limit:N0}: /new begins anew, /undo takes a turn back."));
        }
    }

    private void Obey(string command, string argument, ChatSession session)
    {
        switch (command.ToUpperInvariant())
        {
            case "/ADAPTER" or "/ADAPTERS":
                if (argument.Length > 0)
                {
                    _selection = Selected(argument.Split([',', ' '], StringSplitOptions.RemoveEmptyEntries));
                }

                Say($"{Answering()}; there are: {string.Join(", ", TheModel.Adapters.Select(static adapter => adapter.Name).Append(OutputComparison.BaseName))}.\n");
                break;
            case "/SYSTEM":
                session.SystemMessage = argument.Length > 0 ? argument : null;
                break;
            case "/UNDO":
                Say(session.Undo() ? "Taken back.\n" : "Nothing was said yet.\n");
                break;
            case "/NEW" or "/CLEAR":
                _earlier.AddRange(session.Turns);
                session.Clear();
                break;
            case "/HELP" or "/?":
                Say(string.Concat(s_commands.Select(static entry => $"{entry.Name,-22} {entry.Does}\n")));
                break;
            default:
                Say($"There is no {command}; /help lists what there is.\n");
                break;
        }
    }

    private AdapterSelection Selected(string[] names) => names is [var only] && AdapterNames.IsBase(TheModel, only)
        ? TheModel.Select()
        : TheModel.Select(AdapterNames.Resolve(TheModel, names).Select(static adapter => adapter.Name));

    private string Answering()
    {
        string[] names = [.. (_selection ?? TheModel.CurrentSelection).Order.Select(static active => active.Name)];
        return names.Length > 0 ? $"with {string.Join(", ", names)}" : "the base alone";
    }

    private void Say(string text) => Host.UI.Write(text);
}
