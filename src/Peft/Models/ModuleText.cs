using System.Globalization;
using System.Text;

namespace Peft.Models;

/// <summary>A module tree as PyTorch prints it.</summary>
public static class ModuleText
{
    /// <summary>Prints a module and all below it; equal neighbours in a list are printed once with their number.</summary>
    /// <param name="module">The root.</param>
    /// <returns>Lines separated by line feeds, without one at the end.</returns>
    public static string Print(Module module)
    {
        ArgumentNullException.ThrowIfNull(module);
        if (module.Children.Count == 0)
        {
            return $"{module.ClassName}({module.Details})";
        }

        var text = new StringBuilder($"{module.ClassName}(");
        foreach (var (name, body) in Entries(module))
        {
            text.Append("\n  (").Append(name).Append("): ").Append(body.Replace("\n", "\n  ", StringComparison.Ordinal));
        }

        return text.Append("\n)").ToString();
    }

    /// <summary>A number as Python prints it: <c>1e-05</c>, <c>0.001</c>, <c>1.0</c>.</summary>
    internal static string Number(double value)
    {
        var text = value.ToString("R", CultureInfo.InvariantCulture).Replace("E", "e", StringComparison.Ordinal);
        return text.Contains('.', StringComparison.Ordinal) || text.Contains('e', StringComparison.Ordinal) ? text : text + ".0";
    }

    private static IEnumerable<(string Name, string Body)> Entries(Module module)
    {
        var isList = module.ClassName == "ModuleList";
        for (var i = 0; i < module.Children.Count;)
        {
            var body = Print(module.Children[i]);
            var next = i + 1;
            while (isList && next < module.Children.Count && Print(module.Children[next]) == body)
            {
                next++;
            }

            yield return next - i == 1
                ? (module.Children[i].Name, body)
                : (string.Create(CultureInfo.InvariantCulture, $"{i}-{next - 1}"), string.Create(CultureInfo.InvariantCulture, $"{next - i} x {body}"));
            i = next;
        }
    }
}
