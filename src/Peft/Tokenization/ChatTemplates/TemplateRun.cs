using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Text;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>One rendering: its output, and the limits that a foreign template has to keep.</summary>
internal sealed class TemplateRun
{
    /// <summary>The longest text, output or value, in UTF-16 units.</summary>
    public const int LongestText = 16 << 20;

    /// <summary>The longest list.</summary>
    public const int LongestList = 1 << 20;

    private const int MostSteps = 20_000_000;
    private const int DeepestCall = 200;
    private static readonly TimeSpan s_longestTime = TimeSpan.FromSeconds(10);

    private readonly Stopwatch _clock = Stopwatch.StartNew();
    private int _steps;
    private int _calls;

    /// <summary>What is written goes here.</summary>
    public StringBuilder Output { get; private set; } = new();

    /// <summary>The output of the template itself, as opposed to that of a macro or captured block.</summary>
    public StringBuilder Root { get; private set; } = null!;

    /// <summary>Where the assistant speaks, in <see cref="Root"/>.</summary>
    public List<(int Start, int End)> GenerationSpans { get; } = [];

    /// <summary>The variables of the template itself.</summary>
    public TemplateScope Globals { get; private set; } = null!;

    /// <summary>The named blocks.</summary>
    public Dictionary<string, BlockStatement> Blocks { get; } = new(StringComparer.Ordinal);

    /// <summary>What <c>strftime_now</c> sees.</summary>
    public DateTime Now { get; init; }

    /// <summary>Renders a template.</summary>
    public string Render(BodyStatement template, TemplateScope globals)
    {
        Globals = globals;
        Root = Output;
        template.Execute(this, globals);
        return Output.ToString();
    }

    /// <summary>Counts a step; throws where the template has had its share of time or depth.</summary>
    public void Step()
    {
        if (!RuntimeHelpers.TryEnsureSufficientExecutionStack())
        {
            throw TemplateErrors.Limit("The chat template is nested too deep.");
        }

        if (++_steps > MostSteps || ((_steps & 1023) == 0 && _clock.Elapsed > s_longestTime))
        {
            throw TemplateErrors.Limit("The chat template takes too long.");
        }
    }

    /// <summary>Counts many steps at once.</summary>
    public void Steps(int count)
    {
        _steps = (int)Math.Min((long)_steps + (count / 8), MostSteps);
        Step();
    }

    /// <summary>Writes text.</summary>
    public void Write(string text)
    {
        CheckText((long)Output.Length + text.Length);
        Output.Append(text);
    }

    /// <summary>Throws where a text would get too long.</summary>
    public static void CheckText(long length)
    {
        if (length > LongestText)
        {
            throw TemplateErrors.Limit($"The chat template makes a text of more than {LongestText} characters.");
        }
    }

    /// <summary>Throws where a list would get too long.</summary>
    public static void CheckList(long count)
    {
        if (count > LongestList)
        {
            throw TemplateErrors.Limit($"The chat template makes a list of more than {LongestList} items.");
        }
    }

    /// <summary>Runs something with its output captured.</summary>
    public string Capture(Action write)
    {
        if (++_calls > DeepestCall)
        {
            throw TemplateErrors.Limit($"The chat template calls macros more than {DeepestCall} levels deep.");
        }

        var outer = Output;
        Output = new StringBuilder();
        try
        {
            write();
            return Output.ToString();
        }
        finally
        {
            Output = outer;
            _calls--;
        }
    }
}

/// <summary>Variables by name, inside an outer scope.</summary>
internal sealed class TemplateScope(TemplateScope? outer)
{
    private Dictionary<string, object?>? _variables;

    /// <summary>Looks a variable up here and further out.</summary>
    public bool TryGet(string name, out object? value)
    {
        for (var scope = this; scope is not null; scope = scope.Outer)
        {
            if (scope._variables is not null && scope._variables.TryGetValue(name, out value))
            {
                return true;
            }
        }

        value = null;
        return false;
    }

    /// <summary>The outer scope.</summary>
    public TemplateScope? Outer { get; } = outer;

    /// <summary>Sets a variable here.</summary>
    public void Set(string name, object? value) => (_variables ??= new(StringComparer.Ordinal))[name] = value;
}

/// <summary>How a statement ended.</summary>
internal enum TemplateFlow
{
    Next,
    Break,
    Continue,
}
