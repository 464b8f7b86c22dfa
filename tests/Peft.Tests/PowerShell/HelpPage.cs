using System.Globalization;
using System.Text;

namespace Peft.Tests.PowerShell;

/// <summary>
/// A page of docs/commands. A person writes the title, the synopsis below it and the sections Description, Examples, Outputs, Notes and Related;
/// Syntax and Parameters are generated from the cmdlet and its documentation comments.
/// </summary>
public sealed class HelpPage
{
    private readonly List<(string Title, string Text)> _sections = [];

    private HelpPage(string name, string synopsis)
    {
        Name = name;
        Synopsis = synopsis;
    }

    public string Name { get; }

    /// <summary>One sentence.</summary>
    public string Synopsis { get; }

    public string this[string section]
    {
        get => _sections.Find(entry => entry.Title == section).Text ?? "";
        set
        {
            var index = _sections.FindIndex(entry => entry.Title == section);
            if (index >= 0)
            {
                _sections[index] = (section, value);
            }
            else
            {
                _sections.Insert(Math.Min(1, _sections.Count), (section, value));
            }
        }
    }

    /// <summary>The examples: a title, code, and what to say about it.</summary>
    public IEnumerable<(string Title, string Code, string Remark)> Examples()
    {
        foreach (var part in ("\n" + this["Examples"]).Split("\n### ", StringSplitOptions.RemoveEmptyEntries).Where(static part => part.Trim().Length > 0))
        {
            var lines = part.Split('\n');
            var begin = Array.FindIndex(lines, static line => line.StartsWith("```", StringComparison.Ordinal));
            var end = Array.FindIndex(lines, begin + 1, static line => line.StartsWith("```", StringComparison.Ordinal));
            Assert.True(begin > 0 && end > begin, $"{Name}: the example '{lines[0]}' has no code block.");
            yield return (
                lines[0].Trim(),
                string.Join('\n', lines[(begin + 1)..end]),
                string.Join('\n', lines[1..begin].Concat(lines[(end + 1)..])).Trim());
        }
    }

    /// <summary>Names of cmdlets and topics to read on, from the section Related.</summary>
    public IEnumerable<string> Related => this["Related"].Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(static line => line.TrimStart('-', ' ').Trim());

    public static HelpPage Parse(string text)
    {
        var parts = ("\n" + text.ReplaceLineEndings("\n")).Split("\n## ");
        var head = parts[0].Trim().Split('\n', 2);
        var page = new HelpPage(head[0].TrimStart('#', ' '), head.Length > 1 ? Join(head[1]) : "");
        foreach (var part in parts[1..])
        {
            var lines = part.Split('\n', 2);
            page._sections.Add((lines[0].Trim(), lines.Length > 1 ? lines[1].Trim() : ""));
        }

        return page;
    }

    public override string ToString()
    {
        var text = new StringBuilder($"# {Name}\n\n{Synopsis}\n");
        foreach (var (title, content) in _sections)
        {
            text.Append(CultureInfo.InvariantCulture, $"\n## {title}\n\n{content}\n");
        }

        return text.ToString();
    }

    /// <summary>Lines of one paragraph as one line.</summary>
    public static string Join(string paragraph) => string.Join(' ', paragraph.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries));
}
