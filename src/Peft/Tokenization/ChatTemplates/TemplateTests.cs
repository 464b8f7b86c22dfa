using System.Numerics;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>The tests of Jinja: what stands after <c>is</c>.</summary>
internal static class TemplateTests
{
    private static readonly Dictionary<string, Func<object?, CallArguments, TemplateRun, bool>> s_tests = Make();

    /// <summary>Whether there is a test of this name.</summary>
    public static bool Exists(string name) => s_tests.ContainsKey(name);

    /// <summary>Applies a test.</summary>
    public static bool Apply(string name, object? value, CallArguments arguments, TemplateRun run)
    {
        run.Step();
        return s_tests.TryGetValue(name, out var test)
            ? test(value, arguments, run)
            : throw TemplateErrors.Type($"No test named '{name}' found.");
    }

    private static Dictionary<string, Func<object?, CallArguments, TemplateRun, bool>> Make()
    {
        var tests = new Dictionary<string, Func<object?, CallArguments, TemplateRun, bool>>(StringComparer.Ordinal)
        {
            ["defined"] = (v, _, _) => v is not TemplateUndefined,
            ["undefined"] = (v, _, _) => v is TemplateUndefined,
            ["none"] = (v, _, _) => v is null,
            ["boolean"] = (v, _, _) => v is bool,
            ["true"] = (v, _, _) => v is true,
            ["false"] = (v, _, _) => v is false,
            ["integer"] = (v, _, _) => v is BigInteger,
            ["float"] = (v, _, _) => v is double,
            ["number"] = (v, _, _) => v is BigInteger or double or bool,
            ["string"] = (v, _, _) => v is string or TemplateMarkup,
            ["mapping"] = (v, _, _) => v is TemplateObject,
            ["sequence"] = (v, _, _) => v is string or TemplateMarkup or List<object?> or object?[] or TemplateObject or TemplateRange or TemplateGroup or TemplateUndefined,
            ["iterable"] = (v, _, _) => v is not (null or bool or BigInteger or double or TemplateFunction or TemplateMacro or TemplateNamespace),
            ["callable"] = (v, _, _) => v is TemplateFunction or TemplateMacro or LoopContext or TemplateUndefined,
            ["escaped"] = (v, _, _) => v is TemplateMarkup,
            ["odd"] = (v, _, run) => TemplateOperations.AreEqual(Remainder(v, new BigInteger(2), run), BigInteger.One, run),
            ["even"] = (v, _, run) => TemplateOperations.AreEqual(Remainder(v, new BigInteger(2), run), BigInteger.Zero, run),
            ["divisibleby"] = (v, a, run) => !TemplateOperations.Truth(Remainder(v, a.Required(0, "num"), run)),
            ["upper"] = (v, _, run) => Text.Casing.IsUpper(Read(v, run)),
            ["lower"] = (v, _, run) => Text.Casing.IsLower(Read(v, run)),
            ["sameas"] = (v, a, run) => Same(v, a.Required(0, "other")),
            ["filter"] = (v, _, _) => v is string name && TemplateFilters.Exists(name),
            ["test"] = (v, _, _) => v is string name && Exists(name),
            ["in"] = (v, a, run) => TemplateOperations.Contains(a.Required(0, "seq"), v, run),
        };
        Add(TemplateOperator.Equal, "eq", "==", "equalto");
        Add(TemplateOperator.NotEqual, "ne", "!=");
        Add(TemplateOperator.Less, "lt", "<", "lessthan");
        Add(TemplateOperator.LessOrEqual, "le", "<=");
        Add(TemplateOperator.Greater, "gt", ">", "greaterthan");
        Add(TemplateOperator.GreaterOrEqual, "ge", ">=");
        return tests;

        void Add(TemplateOperator kind, params string[] names)
        {
            foreach (var name in names)
            {
                tests[name] = (v, a, run) => TemplateOperations.Compare(kind, v, a.Required(0, "other"), run);
            }
        }
    }

    private static string Read(object? value, TemplateRun run)
    {
        run.Read(value);
        return PythonText.Str(value, run);
    }

    private static object? Remainder(object? value, object? by, TemplateRun run) => TemplateOperations.Binary(TemplateOperator.Modulo, value, by, run);

    /// <summary>Python's identity, as far as values show it: small numbers, texts and constants are the same object.</summary>
    private static bool Same(object? left, object? right) => (left, right) switch
    {
        (null, null) => true,
        (bool x, bool y) => x == y,
        (string x, string y) => x == y,
        (BigInteger x, BigInteger y) => x == y,
        _ => ReferenceEquals(left, right),
    };
}
