namespace Peft.Tokenization.ChatTemplates;

internal static partial class TemplateFilters
{
    private static object? WordWrap(string text, CallArguments arguments, TemplateRun run)
    {
        var width = arguments.Integer(0, "width", 79);
        if (width <= 0)
        {
            throw TemplateErrors.Type($"invalid width {width} (must be > 0)");
        }

        var breakWords = arguments.Flag(1, "break_long_words", otherwise: true);
        var separator = arguments.Text(2, "wrapstring") ?? "\n";
        var breakHyphens = arguments.Flag(3, "break_on_hyphens", otherwise: true);
        var lines = SplitLines(text).SelectMany(line => WrapLine(line, width, breakWords, breakHyphens, run)).ToList();
        TemplateRun.CheckText(lines.Sum(line => (long)line.Length + separator.Length));
        return string.Join(separator, lines);
    }

    /// <summary>Fills lines with words; words that are too long are cut, or stand alone.</summary>
    private static List<string> WrapLine(string line, int width, bool breakWords, bool breakHyphens, TemplateRun run)
    {
        var chunks = Chunks(line, breakHyphens);
        var lines = new List<string>();
        for (var at = 0; at < chunks.Count;)
        {
            run.Step();
            var (start, end) = (chunks[at].Start, chunks[at].Start);
            while (at < chunks.Count && chunks[at].End - start <= width)
            {
                end = chunks[at++].End;
            }

            if (at < chunks.Count && chunks[at].End - chunks[at].Start > width)
            {
                if (breakWords)
                {
                    end = Math.Max(start + width, chunks[at].Start + 1);
                    chunks[at] = (end, chunks[at].End);
                }
                else if (end == start)
                {
                    end = chunks[at++].End;
                }
            }

            var text = line[start..end].TrimEnd(' ');
            if (text.Length > 0 || lines.Count == 0)
            {
                lines.Add(text);
            }

            while (at < chunks.Count && line.AsSpan()[chunks[at].Start..chunks[at].End].IsWhiteSpace())
            {
                at++;
            }
        }

        return lines;
    }

    private static List<(int Start, int End)> Chunks(string line, bool breakHyphens)
    {
        var chunks = new List<(int Start, int End)>();
        var start = 0;
        for (var i = 1; i <= line.Length; i++)
        {
            var boundary = i == line.Length
                || char.IsWhiteSpace(line[i]) != char.IsWhiteSpace(line[i - 1])
                || (breakHyphens && line[i - 1] == '-' && i > start + 1 && char.IsLetter(line[i - 2]) && char.IsLetter(line[i]));
            if (boundary)
            {
                chunks.Add((start, i));
                start = i;
            }
        }

        return chunks;
    }
}
