using System.Globalization;
using System.Management.Automation;
using System.Xml.Linq;

namespace Peft.Tests.PowerShell;

/// <summary>Writes the file that Get-Help reads (MAML), from the pages and what the cmdlets tell of themselves.</summary>
internal static class HelpFile
{
    private static readonly XNamespace s_msh = "http://msh";
    private static readonly XNamespace s_maml = "http://schemas.microsoft.com/maml/2004/10";
    private static readonly XNamespace s_command = "http://schemas.microsoft.com/maml/dev/command/2004/10";
    private static readonly XNamespace s_dev = "http://schemas.microsoft.com/maml/dev/2004/10";

    public static string Write(IEnumerable<(CmdletHelp Cmdlet, HelpPage Page)> all)
    {
        var root = new XElement(s_msh + "helpItems", new XAttribute("schema", "maml"), all.Select(static entry => Entry(entry.Cmdlet, entry.Page)));
        return $"""<?xml version="1.0" encoding="utf-8"?>{"\n"}{root.ToString().ReplaceLineEndings("\n")}{"\n"}""";
    }

    private static XElement Entry(CmdletHelp help, HelpPage page) => new(
        s_command + "command",
        new XAttribute(XNamespace.Xmlns + "maml", s_maml),
        new XAttribute(XNamespace.Xmlns + "command", s_command),
        new XAttribute(XNamespace.Xmlns + "dev", s_dev),
        new XElement(
            s_command + "details",
            new XElement(s_command + "name", help.Cmdlet.Name),
            new XElement(s_command + "verb", help.Cmdlet.Verb),
            new XElement(s_command + "noun", help.Cmdlet.Noun),
            new XElement(s_maml + "description", Paragraphs(page.Synopsis))),
        new XElement(s_maml + "description", Paragraphs(page["Description"])),
        new XElement(s_command + "syntax", help.Cmdlet.ParameterSets.OrderByDescending(static set => set.IsDefault).Select(set => SyntaxItem(help, set))),
        new XElement(s_command + "parameters", help.Parameters.Select(static parameter => Parameter(parameter))),
        new XElement(s_command + "inputTypes", Types(help.Parameters.Where(static parameter => parameter.Pipeline != "False").Select(static parameter => parameter.Info.ParameterType.FullName!))),
        new XElement(s_command + "returnValues", ReturnValues(help, page)),
        new XElement(s_maml + "alertSet", new XElement(s_maml + "alert", Paragraphs(page["Notes"]))),
        new XElement(s_command + "examples", page.Examples().Select(Example)),
        new XElement(s_maml + "relatedLinks", page.Related.Select(static name => new XElement(
            s_maml + "navigationLink", new XElement(s_maml + "linkText", name), new XElement(s_maml + "uri")))));

    private static XElement SyntaxItem(CmdletHelp help, CommandParameterSetInfo set) => new(
        s_command + "syntaxItem",
        new XElement(s_maml + "name", help.Cmdlet.Name),
        set.Parameters
            .Where(parameter => help.Parameters.Any(known => known.Info.Name == parameter.Name))
            .OrderBy(static parameter => parameter.Position < 0 ? int.MaxValue : parameter.Position)
            .ThenByDescending(static parameter => parameter.IsMandatory)
            .Select(parameter => Parameter(new ParameterHelp(help.Cmdlet, parameter), withComment: false)));

    private static XElement Parameter(ParameterHelp parameter, bool withComment = true) => new(
        s_command + "parameter",
        new XAttribute("required", Flag(parameter.Info.IsMandatory)),
        new XAttribute("variableLength", "false"),
        new XAttribute("globbing", Flag(parameter.TakesWildcards)),
        new XAttribute("pipelineInput", parameter.Pipeline),
        new XAttribute("position", parameter.Info.Position >= 0 ? (parameter.Info.Position + 1).ToString(CultureInfo.InvariantCulture) : "named"),
        new XAttribute("aliases", parameter.Aliases.Count > 0 ? string.Join(", ", parameter.Aliases) : "none"),
        new XElement(s_maml + "name", parameter.Info.Name),
        withComment ? new XElement(s_maml + "description", Paragraphs(parameter.Comment())) : null,
        parameter.IsSwitch ? null : new XElement(s_command + "parameterValue", new XAttribute("required", "true"), parameter.TypeName),
        parameter.Values.Count == 0 ? null : new XElement(
            s_command + "parameterValueGroup",
            parameter.Values.Select(static value => new XElement(s_command + "parameterValue", new XAttribute("required", "false"), value))),
        new XElement(s_dev + "type", new XElement(s_maml + "name", parameter.TypeName)),
        new XElement(s_dev + "defaultValue", parameter.Default.Length > 0 ? parameter.Default : "None"));

    private static XElement Example((string Title, string Code, string Remark) example) => new(
        s_command + "example",
        new XElement(s_maml + "title", example.Title),
        new XElement(s_dev + "code", example.Code),
        new XElement(s_dev + "remarks", Paragraphs(example.Remark)));

    private static IEnumerable<XElement> ReturnValues(CmdletHelp help, HelpPage page) => help.Cmdlet.OutputType.Select(type => new XElement(
        s_command + "returnValue",
        new XElement(s_dev + "type", new XElement(s_maml + "name", type.Name)),
        new XElement(s_maml + "description", Paragraphs(page["Outputs"]))));

    private static IEnumerable<XElement> Types(IEnumerable<string> names) =>
        names.Distinct().Select(static name => new XElement(s_command + "inputType", new XElement(s_dev + "type", new XElement(s_maml + "name", name))));

    private static IEnumerable<XElement> Paragraphs(string text) =>
        text.Split("\n\n", StringSplitOptions.RemoveEmptyEntries).Select(static paragraph => new XElement(s_maml + "para", Plain(paragraph)));

    /// <summary>A paragraph as one line without Markdown's quotes; a list or table keeps its lines.</summary>
    private static string Plain(string paragraph)
    {
        var text = paragraph.Replace("`", "", StringComparison.Ordinal).Replace("**", "", StringComparison.Ordinal);
        return text.StartsWith("- ", StringComparison.Ordinal) || text.StartsWith('|') ? text : HelpPage.Join(text);
    }

    private static string Flag(bool value) => value ? "true" : "false";
}
