namespace Peft.Tokenization.ChatTemplates;

/// <summary>A macro as it is written.</summary>
/// <param name="Name">The name, or null for the body of a call block.</param>
/// <param name="Parameters">The parameters with their defaults.</param>
/// <param name="Body">The body.</param>
/// <param name="Reads">The names that the body reads: a macro takes further arguments only where it reads them.</param>
internal sealed record MacroDefinition(string? Name, List<(string Name, TemplateExpression? Default)> Parameters, BodyStatement Body, IReadOnlySet<string> Reads)
{
    /// <summary>Whether <c>varargs</c> takes further positional arguments.</summary>
    public bool TakesPositional => Reads.Contains("varargs");

    /// <summary>Whether <c>kwargs</c> takes further named arguments.</summary>
    public bool TakesNamed => Reads.Contains("kwargs");

    /// <summary>Whether it can be used in a call block.</summary>
    public bool TakesCaller => Reads.Contains("caller");
}

/// <summary>A macro, or the body of a call block.</summary>
internal sealed class TemplateMacro(MacroDefinition definition, TemplateScope scope)
{
    /// <summary>The macro as it is written.</summary>
    public MacroDefinition Definition => definition;

    private string Shown => definition.Name is { } name ? $"'{name}'" : "None";

    /// <summary>One of its members, if it is one.</summary>
    public bool TryGet(string name, out object? value)
    {
        value = name switch
        {
            "name" => definition.Name,
            "arguments" => definition.Parameters.Select(parameter => (object?)parameter.Name).ToArray(),
            "catch_varargs" => definition.TakesPositional,
            "catch_kwargs" => definition.TakesNamed,
            "caller" => definition.TakesCaller,
            "explicit_caller" => definition.Parameters.Exists(parameter => parameter.Name == "caller"),
            _ => this,
        };
        return !ReferenceEquals(value, this);
    }

    /// <summary>Renders it with arguments.</summary>
    public string Call(CallArguments arguments, TemplateRun run)
    {
        var inner = new TemplateScope(scope);
        var named = arguments.Named.ToList();
        run.Count((long)named.Count * (definition.Parameters.Count + 1));
        SetParameters(inner, arguments, named);
        SetRest(inner, arguments, named);
        SetDefaults(inner, run);
        return run.Capture(() => definition.Body.Execute(run, inner));
    }

    /// <summary>Sets what is given; a parameter that isn't is undefined until its default has been worked out.</summary>
    private void SetParameters(TemplateScope inner, CallArguments arguments, List<KeyValuePair<string, object?>> named)
    {
        for (var i = 0; i < definition.Parameters.Count; i++)
        {
            var (parameter, otherwise) = definition.Parameters[i];
            var at = i < arguments.Positional.Count ? -1 : named.FindIndex(entry => entry.Key == parameter);
            inner.Set(parameter, i < arguments.Positional.Count ? arguments.Positional[i]
                : at >= 0 ? named[at].Value
                : new MissingParameter(parameter, otherwise));
            if (at >= 0)
            {
                named.RemoveAt(at);
            }
        }
    }

    private void SetDefaults(TemplateScope inner, TemplateRun run)
    {
        foreach (var (parameter, _) in definition.Parameters)
        {
            if (inner.TryGet(parameter, out var value) && value is MissingParameter missing)
            {
                inner.Set(parameter, missing.Default is { } otherwise
                    ? otherwise.Evaluate(run, inner)
                    : new TemplateUndefined($"parameter '{parameter}' was not provided"));
            }
        }
    }

    private void SetRest(TemplateScope inner, CallArguments arguments, List<KeyValuePair<string, object?>> named)
    {
        if (definition.TakesCaller && !definition.Parameters.Exists(parameter => parameter.Name == "caller"))
        {
            var at = named.FindIndex(entry => entry.Key == "caller");
            inner.Set("caller", at >= 0 && named[at].Value is { } caller ? caller : new TemplateUndefined("No caller defined"));
            if (at >= 0)
            {
                named.RemoveAt(at);
            }
        }

        var rest = new TemplateObject();
        named.ForEach(entry => rest.Set(entry.Key, entry.Value));
        var extra = arguments.Positional.Skip(definition.Parameters.Count).ToArray();
        if (rest.Count > 0 && !definition.TakesNamed)
        {
            throw TemplateErrors.Type(rest.TryGet("caller", out _)
                ? $"macro {Shown} was invoked with two values for the special caller argument. This is most likely a bug."
                : $"macro {Shown} takes no keyword argument '{named[0].Key}'");
        }

        if (extra.Length > 0 && !definition.TakesPositional)
        {
            throw TemplateErrors.Type($"macro {Shown} takes not more than {definition.Parameters.Count} argument(s)");
        }

        SetUnlessParameter("kwargs", rest);
        SetUnlessParameter("varargs", extra);

        void SetUnlessParameter(string name, object value)
        {
            if (definition.Reads.Contains(name) && !definition.Parameters.Exists(parameter => parameter.Name == name))
            {
                inner.Set(name, value);
            }
        }
    }
}

/// <summary>A parameter that was not given and whose default hasn't been worked out yet: undefined to the defaults before it.</summary>
internal sealed class MissingParameter(string name, TemplateExpression? otherwise)
{
    /// <summary>The default, if it has one.</summary>
    public TemplateExpression? Default => otherwise;

    /// <summary>What reading it gives.</summary>
    public TemplateUndefined Undefined => new($"'{name}' is undefined");
}
