using System.Collections.ObjectModel;
using System.Globalization;
using System.Management.Automation;
using System.Management.Automation.Host;
using System.Security;
using System.Text;

namespace Peft.Tests.PowerShell;

/// <summary>A host at which lines are typed that a test gives, and which keeps what is shown.</summary>
public sealed class ScriptedHost : PSHost
{
    private readonly ScriptedInterface _interface = new();

    /// <summary>Lines still to be typed; the end of them is the end of input.</summary>
    public Queue<string> Lines => _interface.Lines;

    /// <summary>What was shown.</summary>
    public string Shown => _interface.Shown.ToString();

    public override CultureInfo CurrentCulture => CultureInfo.InvariantCulture;

    public override CultureInfo CurrentUICulture => CultureInfo.InvariantCulture;

    public override Guid InstanceId { get; } = Guid.NewGuid();

    public override string Name => nameof(ScriptedHost);

    public override Version Version => new(1, 0);

    public override PSHostUserInterface UI => _interface;

    public override void EnterNestedPrompt() => throw new NotSupportedException();

    public override void ExitNestedPrompt() => throw new NotSupportedException();

    public override void NotifyBeginApplication()
    {
    }

    public override void NotifyEndApplication()
    {
    }

    public override void SetShouldExit(int exitCode)
    {
    }

    private sealed class ScriptedInterface : PSHostUserInterface
    {
        public Queue<string> Lines { get; } = new();

        public StringBuilder Shown { get; } = new();

        public override PSHostRawUserInterface RawUI => null!;

        public override string ReadLine() => Lines.TryDequeue(out var line) ? line : null!;

        public override void Write(string value) => Shown.Append(value);

        public override void Write(ConsoleColor foregroundColor, ConsoleColor backgroundColor, string value) => Shown.Append(value);

        public override void WriteLine(string value) => Shown.AppendLine(value);

        public override void WriteErrorLine(string value) => Shown.AppendLine(value);

        public override void WriteDebugLine(string message) => Shown.AppendLine(message);

        public override void WriteVerboseLine(string message) => Shown.AppendLine(message);

        public override void WriteWarningLine(string message) => Shown.AppendLine(message);

        public override void WriteProgress(long sourceId, ProgressRecord record)
        {
        }

        public override SecureString ReadLineAsSecureString() => throw new NotSupportedException();

        public override Dictionary<string, PSObject> Prompt(string caption, string message, Collection<FieldDescription> descriptions) => throw new NotSupportedException();

        public override PSCredential PromptForCredential(string caption, string message, string userName, string targetName) => throw new NotSupportedException();

        public override PSCredential PromptForCredential(string caption, string message, string userName, string targetName, PSCredentialTypes allowedCredentialTypes, PSCredentialUIOptions options) =>
            throw new NotSupportedException();

        public override int PromptForChoice(string caption, string message, Collection<ChoiceDescription> choices, int defaultChoice) => defaultChoice;
    }
}
