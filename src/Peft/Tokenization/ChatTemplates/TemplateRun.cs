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
    private const long MostCharacters = 128L << 20;
    private const int ItemCharacters = 4;
    private const int MadeItemCharacters = 8;
    private const int DeepestCall = 200;
    private static readonly TimeSpan s_longestTime = TimeSpan.FromSeconds(10);

    private readonly Stopwatch _clock = Stopwatch.StartNew();
    private int _steps;
    private long _characters;
    private long _looked;
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

    /// <summary>Ends the rendering.</summary>
    public CancellationToken Cancellation { get; init; }

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

        if (++_steps > MostSteps)
        {
            throw TooLong();
        }

        if ((_steps & 1023) == 0)
        {
            LookAround();
        }
    }

    /// <summary>
    /// Counts characters, or items, that something reads or makes, before it does; throws where the template has had its share. There is one
    /// budget for a whole rendering, so that no mixture of filters, methods and operators gets more.
    /// </summary>
    public void Count(long characters)
    {
        Step();
        _characters += characters;
        if (_characters > MostCharacters)
        {
            throw TemplateErrors.Limit($"The chat template reads and makes more than {MostCharacters} characters of text.");
        }

        if (_characters - _looked > 1 << 20)
        {
            _looked = _characters;
            LookAround();
        }
    }

    /// <summary>Counts a value that something reads.</summary>
    public void Read(object? value) => Count(Size(value));

    /// <summary>Counts a value that was made, whose items take memory; throws where it got too large.</summary>
    public object? Made(object? value)
    {
        switch (value)
        {
            case string text:
                CheckText(text.Length);
                break;
            case TemplateMarkup markup:
                CheckText(markup.Text.Length);
                break;
            case List<object?> list:
                CheckList(list.Count);
                break;
            case object?[] tuple:
                CheckList(tuple.Length);
                break;
        }

        Count(value is List<object?> or object?[] or TemplateObject ? Size(value) * MadeItemCharacters : Size(value));
        return value;
    }

    /// <summary>A text that was made.</summary>
    public string MadeText(string text)
    {
        Made(text);
        return text;
    }

    /// <summary>How much there is to read in a value, in characters; an item counts as several, and a number by its bits.</summary>
    private static long Size(object? value) => value switch
    {
        string text => text.Length,
        TemplateMarkup markup => markup.Text.Length,
        List<object?> list => (long)list.Count * ItemCharacters,
        object?[] tuple => (long)tuple.Length * ItemCharacters,
        TemplateObject entries => (long)entries.Count * ItemCharacters,
        TemplateView view => (long)view.Count * ItemCharacters,
        TemplateRange range => range.Count,
        System.Numerics.BigInteger number => number.GetBitLength() / 8,
        _ => 0,
    };

    private void LookAround()
    {
        Cancellation.ThrowIfCancellationRequested();
        if (_clock.Elapsed > s_longestTime)
        {
            throw TooLong();
        }
    }

    private static TemplateException TooLong() => TemplateErrors.Limit("The chat template takes too long.");

    /// <summary>Writes text.</summary>
    public void Write(string text)
    {
        CheckText((long)Output.Length + text.Length);
        Count(text.Length);
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
            return MadeText(Output.ToString());
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
