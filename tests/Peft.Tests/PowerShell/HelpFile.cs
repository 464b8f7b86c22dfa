using System.Globalization;
using System.Management.Automation;
using System.Xml.Linq;

namespace Peft.Tests.PowerShell;

/// <summary>Writes the file that Get-Help reads (MAML), from the pages and what the cmdlets tell of themselves.</summary>
internal static class HelpFile
{
    private static readonly XNamespace Msh = "http://msh";
    private static readonly XNamespace Maml = "http://schemas.microsoft.com/maml/2004/10";
    private static readonly XNamespace Command = "http://schemas.microsoft.com/maml/dev/command/2004/10";
    private static readonly XNamespace Dev = "http://schemas.microsoft.com/maml/dev/2004/10";

    public static string Write(IEnumerable<(CmdletHelp Cmdlet, HelpPage Page)> all)
    {
        var root = new XElement(Msh + "helpItems", new XAttribute("schema", "maml"), all.Select(static entry => Entry(entry.Cmdlet, entry.Page)));
        return $"""<?xml version="1.0" encoding="utf-8"?>{"\n"}{root.ToString().ReplaceLineEndings("\n")}{"\n"}""";
    }

    private static XElement Entry(CmdletHelp help, HelpPage page) => new(
        Command + "command",
        new XAttribute(XNamespace.Xmlns + "maml", Maml),
        new XAttribute(XNamespace.Xmlns + "command", Command),
        new XAttribute(XNamespace.Xmlns + "dev", Dev),
        new XElement(
            Command + "details",
            new XElement(Command + "name", help.Cmdlet.Name),
            new XElement(Command + "verb", help.Cmdlet.Verb),
            new XElement(Command + "noun", help.Cmdlet.Noun),
            new XElement(Maml + "description", Paragraphs(page.Synopsis))),
        new XElement(Maml + "description", Paragraphs(page["Description"])),
        new XElement(Command + "syntax", help.Cmdlet.ParameterSets.OrderByDescending(static set => set.IsDefault).Select(set => SyntaxItem(help, set))),
        new XElement(Command + "parameters", help.Parameters.Select(static parameter => Parameter(parameter))),
        new XElement(Command + "inputTypes", Types(help.Parameters.Where(static parameter => parameter.Pipeline != "False").Select(static parameter => parameter.Info.ParameterType.FullName!))),
        new XElement(Command + "returnValues", ReturnValues(help, page)),
        new XElement(Maml + "alertSet", new XElement(Maml + "alert", Paragraphs(page["Notes"]))),
        new XElement(Command + "examples", page.Examples().Select(Example)));

    private static XElement SyntaxItem(CmdletHelp help, CommandParameterSetInfo set) => new(
        Command + "syntaxItem",
        new XElement(Maml + "name", help.Cmdlet.Name),
        set.Parameters
            .Where(parameter => help.Parameters.Any(known => known.Info.Name == parameter.Name))
            .OrderBy(static parameter => parameter.Position < 0 ? int.MaxValue : parameter.Position)
            .ThenByDescending(static parameter => parameter.IsMandatory)
            .Select(parameter => Parameter(new ParameterHelp(help.Cmdlet, parameter), withComment: false)));

    private static XElement Parameter(ParameterHelp parameter, bool withComment = true) => new(
        Command + "parameter",
        new XAttribute("required", Flag(parameter.Info.IsMandatory)),
        new XAttribute("variableLength", "false"),
        new XAttribute("globbing", Flag(parameter.TakesWildcards)),
        new XAttribute("pipelineInput", parameter.Pipeline),
        new XAttribute("position", parameter.Info.Position >= 0 ? (parameter.Info.Position + 1).ToString(CultureInfo.InvariantCulture) : "named"),
        new XAttribute("aliases", parameter.Aliases.Count > 0 ? string.Join(", ", parameter.Aliases) : "none"),
        new XElement(Maml + "name", parameter.Info.Name),
        withComment ? new XElement(Maml + "description", Paragraphs(parameter.Comment())) : null,
        parameter.IsSwitch ? null : new XElement(Command + "parameterValue", new XAttribute("required", "true"), parameter.TypeName),
        parameter.Values.Count == 0 ? null : new XElement(
            Command + "parameterValueGroup",
            parameter.Values.Select(static value => new XElement(Command + "parameterValue", new XAttribute("required", "false"), value))),
        new XElement(Dev + "type", new XElement(Maml + "name", parameter.TypeName)),
        new XElement(Dev + "defaultValue", parameter.Default.Length > 0 ? parameter.Default : "None"));

    private static XElement Example((string Title, string Code, string Remark) example) => new(
        Command + "example",
        new XElement(Maml + "title", example.Title),
        new XElement(Dev + "code", example.Code),
        new XElement(Dev + "remarks", Paragraphs(example.Remark)));

    private static IEnumerable<XElement> ReturnValues(CmdletHelp help, HelpPage page) => help.Cmdlet.OutputType.Select(type => new XElement(
        Command + "returnValue",
        new XElement(Dev + "type", new XElement(Maml + "name", type.Name)),
        new XElement(Maml + "description", Paragraphs(page["Outputs"]))));

    private static IEnumerable<XElement> Types(IEnumerable<string> names) =>
        names.Distinct().Select(static name => new XElement(Command + "inputType", new XElement(Dev + "type", new XElement(Maml + "name", name))));

    private static IEnumerable<XElement> Paragraphs(string text) =>
        text.Split("\n\n", StringSplitOptions.RemoveEmptyEntries).Select(static paragraph => new XElement(Maml + "para", Plain(paragraph)));

    /// <summary>A paragraph as one line without Markdown's quotes; a list or table keeps its lines.</summary>
    private static string Plain(string paragraph)
    {
        var text = paragraph.Replace("`", "", StringComparison.Ordinal).Replace("**", "", StringComparison.Ordinal);
        return text.StartsWith("- ", StringComparison.Ordinal) || text.StartsWith('|') ? text : HelpPage.Join(text);
    }

    private static string Flag(bool value) => value ? "true" : "false";
}
