using System.Globalization;
using System.Management.Automation;
using System.Text;
using System.Text.RegularExpressions;
using System.Xml.Linq;
using Peft.Adapters.Configuration;

namespace Peft.Tests.PowerShell;

/// <summary>What a cmdlet itself tells for its help: its parameters, their defaults and the comments on them in the source.</summary>
public sealed class CmdletHelp
{
    private static readonly Lazy<Dictionary<string, XElement>> s_comments = new(static () =>
        new[] { "Peft.Cmdlets.xml", "Peft.xml" }.SelectMany(static file => XDocument.Load(Path.Combine(AppContext.BaseDirectory, file)).Descendants("member"))
            .Where(static member => member.Element("summary") is not null)
            .DistinctBy(static member => (string)member.Attribute("name")!)
            .ToDictionary(static member => (string)member.Attribute("name")!, static member => member.Element("summary")!));

    private static readonly HashSet<string> s_commonParameters = [.. PSCmdlet.CommonParameters, .. PSCmdlet.OptionalCommonParameters];

    public CmdletHelp(CmdletInfo cmdlet)
    {
        Cmdlet = cmdlet;
        Parameters = [.. cmdlet.ParameterSets
            .OrderByDescending(static set => set.IsDefault)
            .SelectMany(static set => set.Parameters)
            .Where(static parameter => !s_commonParameters.Contains(parameter.Name) && !IsHidden(parameter))
            .DistinctBy(static parameter => parameter.Name)
            .Select(parameter => new ParameterHelp(cmdlet, parameter))
            .OrderByDescending(static parameter => parameter.Info.IsMandatory)
            .ThenBy(static parameter => parameter.Info.Position < 0 ? int.MaxValue : parameter.Info.Position)];
    }

    public CmdletInfo Cmdlet { get; }

    public IReadOnlyList<ParameterHelp> Parameters { get; }

    public bool SupportsShouldProcess => Cmdlet.Parameters.ContainsKey("WhatIf");

    /// <summary>The section Syntax of a page.</summary>
    public string SyntaxSection() => "```\n" + string.Join("\n\n", Cmdlet.ParameterSets
        .OrderByDescending(static set => set.IsDefault)
        .Select(set => HelpPage.Join(set.Parameters.Where(IsHidden).Aggregate(
            $"{Cmdlet.Name} {set}", static (text, hidden) => Regex.Replace(text, $@" \[-{hidden.Name}[^\]]*>\]", ""))))) + "\n```";

    /// <summary>The section Parameters of a page.</summary>
    public string ParametersSection()
    {
        var text = new StringBuilder();
        foreach (var parameter in Parameters)
        {
            var facts = new List<string> { $"`{parameter.TypeName}`" };
            facts.Add(parameter.Info.IsMandatory ? "required" : parameter.Default is { Length: > 0 } value ? $"default: {value}" : "optional");
            facts.AddRange(parameter.Info.Position >= 0 ? [$"position {parameter.Info.Position + 1}"] : []);
            facts.AddRange(parameter.Pipeline is "False" ? [] : ["from the pipeline " + parameter.Pipeline[6..^1]]);
            facts.AddRange(parameter.Values.Count > 0 ? ["one of " + string.Join(", ", parameter.Values.Select(static choice => $"`{choice}`"))] : []);
            facts.AddRange(parameter.TakesWildcards ? ["wildcards"] : []);
            facts.AddRange(parameter.Aliases.Count > 0 ? ["aliases: " + string.Join(", ", parameter.Aliases)] : []);
            text.Append(CultureInfo.InvariantCulture, $"### -{parameter.Info.Name}\n\n{parameter.Comment("`")}\n\n{string.Join(" · ", facts)}\n\n");
        }

        text.Append(SupportsShouldProcess ? "`-WhatIf`, `-Confirm` and the common parameters are there as well." : "The common parameters are there as well.");
        return text.ToString();
    }

    /// <summary>A comment as text; code is put between <paramref name="quote"/>.</summary>
    internal static string Comment(string member, string quote) =>
        s_comments.Value.TryGetValue(member, out var summary) ? HelpPage.Join(string.Concat(summary.Nodes().Select(node => Text(node, quote)))) : "";

    /// <summary>Whether a parameter is there for arguments that are splatted, not for people.</summary>
    private static bool IsHidden(CommandParameterInfo parameter) => parameter.Attributes.OfType<ParameterAttribute>().Any(static attribute => attribute.DontShow);

    private static string Text(XNode node, string quote) => node switch
    {
        XText text => text.Value,
        XElement { Name.LocalName: "c" } code => $"{quote}{code.Value}{quote}",
        XElement element when (string?)(element.Attribute("cref") ?? element.Attribute("langword") ?? element.Attribute("name")) is { } reference =>
            $"{quote}{Regex.Replace(reference, @"^.*[.:](?=[^.]+$)", "")}{quote}",
        XElement element => element.Value,
        _ => "",
    };
}

/// <summary>What a cmdlet tells of one parameter.</summary>
public sealed class ParameterHelp(CmdletInfo cmdlet, CommandParameterInfo info)
{
    public CommandParameterInfo Info => info;

    public string TypeName => Nullable.GetUnderlyingType(info.ParameterType)?.Name ?? info.ParameterType.Name;

    public IReadOnlyList<string> Aliases => [.. info.Aliases];

    public IReadOnlyList<string> Values => [.. info.Attributes.OfType<ValidateSetAttribute>().SelectMany(static set => set.ValidValues)];

    public bool TakesWildcards => info.Attributes.OfType<SupportsWildcardsAttribute>().Any();

    public bool IsSwitch => info.ParameterType == typeof(SwitchParameter);

    /// <summary>The default, as help shows it; empty when leaving the parameter out means what its comment says.</summary>
    public string Default => info.Attributes.OfType<PSDefaultValueAttribute>().FirstOrDefault()?.Help ?? (IsSwitch ? "off" : "");

    /// <summary>As Get-Help shows it: False, True (ByValue), ….</summary>
    public string Pipeline => (info.ValueFromPipeline, info.ValueFromPipelineByPropertyName) switch
    {
        (true, true) => "True (ByValue, ByPropertyName)",
        (true, false) => "True (ByValue)",
        (false, true) => "True (ByPropertyName)",
        _ => "False",
    };

    public string Comment(string quote = "") => cmdlet.ImplementingType.GetProperty(info.Name) is { } own
        ? CmdletHelp.Comment($"P:{own.DeclaringType!.FullName}.{info.Name}", quote)
        : FieldComment(quote) ?? info.HelpMessage ?? "";

    /// <summary>The comment on the field of a configuration that the parameter stands for, or on the property that it overrides.</summary>
    private string? FieldComment(string quote)
    {
        // The module has the library in a load context of its own.
        var config = typeof(ConfigField).Assembly.GetType(cmdlet.OutputType[0].Type.FullName!)!;
        var field = ConfigField.Of(config).FirstOrDefault(field => field.ParameterName == info.Name);
        for (var type = field?.Property.DeclaringType; type is not null; type = type.BaseType)
        {
            if (CmdletHelp.Comment($"P:{type.FullName}.{field!.Property.Name}", quote) is { Length: > 0 } comment)
            {
                return comment;
            }
        }

        return null;
    }
}
