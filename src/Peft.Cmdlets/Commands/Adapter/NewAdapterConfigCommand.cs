using System.Collections;
using System.Collections.ObjectModel;
using System.Management.Automation;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Configuration;
using Peft.Adapters.Methods;
using Peft.Adapters.Targets;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>
/// What the cmdlets that make an adapter's configuration share, which is all: their parameters are the fields that the method's configuration declares,
/// each with Hugging Face's spelling for an alias, so that the arguments of a tutorial can be splatted as they stand.
/// </summary>
public abstract class NewAdapterConfigCommand : PeftCmdlet
{
    /// <summary>Characters that no module's name has and that a regular expression mostly has.</summary>
    private static readonly System.Buffers.SearchValues<char> s_patternCharacters = System.Buffers.SearchValues.Create("*+?^$|()[]{}\\");

    private RuntimeDefinedParameterDictionary _parameters = [];

    /// <summary>Fields that name files or folders.</summary>
    private static readonly string[] s_pathFields = ["tokenizer_name_or_path", "prompt_tuning_init_state_dict_path"];

    /// <summary>PEFT's name of the method; null while that isn't known.</summary>
    private protected abstract string? PeftType { get; }

    /// <summary>Position of the first of the method's fields that may be given without a name.</summary>
    private protected virtual int FirstPosition => 0;

    /// <inheritdoc/>
    public override object GetDynamicParameters()
    {
        _parameters = (RuntimeDefinedParameterDictionary)base.GetDynamicParameters();
        foreach (var parameter in PeftType is { } method && AdapterMethods.Names.Contains(method) ? ParametersOf(AdapterMethods.ConfigOf(method)) : [])
        {
            _parameters.TryAdd(parameter.Name, parameter);
        }

        return _parameters;
    }

    /// <inheritdoc/>
    protected override void Process()
    {
        var type = AdapterMethods.ConfigOf(PeftType!);
        var document = new JsonObject();
        foreach (var variant in ConfigField.VariantsOf(type).Where(variant => IsGiven(variant.Name)))
        {
            document[variant.Name] = Json(_parameters[variant.Name].Value);
        }

        foreach (var field in ConfigField.Of(type))
        {
            if (Given(field) is { } value)
            {
                document[field.Name] = value;
            }
        }

        document["peft_type"] = PeftType;
        var config = AdapterConfig.FromJson(document, MyInvocation.MyCommand.Name);
        config.Validate();
        WriteObject(config);
    }

    private IEnumerable<RuntimeDefinedParameter> ParametersOf(Type config)
    {
        foreach (var field in ConfigField.Of(config))
        {
            yield return new RuntimeDefinedParameter(field.ParameterName, TypeOf(field), AttributesOf(field));
            if (PatternName(field) is { } pattern)
            {
                yield return new RuntimeDefinedParameter(pattern, typeof(string), [
                    new ParameterAttribute { HelpMessage = $"A regular expression that a module's whole path has to match, in place of -{field.ParameterName}." },
                    new ValidateNotNullOrEmptyAttribute(),
                    new ArgumentCompleterAttribute(typeof(ModulePatternCompleter)),
                ]);
            }
        }

        foreach (var variant in ConfigField.VariantsOf(config))
        {
            var help = variant.IsIdle
                ? "Taken because PEFT takes it; it says nothing here."
                : $"A variant of the method that has no code here: only the value that leaves it out ({variant.Unused}) is taken.";
            yield return new RuntimeDefinedParameter(variant.Name, typeof(object), [new ParameterAttribute { HelpMessage = help }]);
        }
    }

    private static Type TypeOf(ConfigField field) => (Nullable.GetUnderlyingType(field.Property.PropertyType) ?? field.Property.PropertyType) switch
    {
        { IsEnum: true } => typeof(string),
        var type when type == typeof(bool) => field.Default is false ? typeof(SwitchParameter) : type,
        var type when type == typeof(ModuleNames) || type == typeof(IReadOnlyList<string>) => typeof(string[]),
        var type when type == typeof(IReadOnlyList<int>) => typeof(int[]),
        var type when type == typeof(IReadOnlyDictionary<string, int>) || type == typeof(IReadOnlyDictionary<string, double>) => typeof(IDictionary),
        var type when type == typeof(JsonNode) || type == typeof(IReadOnlyList<IReadOnlyList<int>>) => typeof(object),
        { IsClass: true } type when type != typeof(string) => typeof(object),
        var type => type,
    };

    private Collection<Attribute> AttributesOf(ConfigField field)
    {
        var declaration = field.Declaration;
        var parameter = new ParameterAttribute();
        if (declaration.Position >= 0)
        {
            parameter.Position = FirstPosition + declaration.Position;
        }

        Collection<Attribute> attributes = [parameter];
        string[] aliases = [.. declaration.Aliases.Prepend(field.Name).Where(alias => !alias.Equals(field.ParameterName, StringComparison.OrdinalIgnoreCase))];
        if (aliases.Length > 0)
        {
            attributes.Add(new AliasAttribute(aliases));
        }

        var type = TypeOf(field);
        if (declaration.Choices.Length > 0)
        {
            attributes.Add(new EnumSpellingAttribute());
            attributes.Add(new ValidateSetAttribute(declaration.Choices));
        }

        if (type.IsArray || type == typeof(IDictionary))
        {
            attributes.Add(new ValidateNotNullOrEmptyAttribute());
        }

        if (field.Property.PropertyType == typeof(ModuleNames) || field.Name == "modules_to_save")
        {
            attributes.Add(new ArgumentCompleterAttribute(field.Name == "target_modules" ? typeof(TargetModuleCompleter) : typeof(ModuleNameCompleter)));
        }

        if (CompleterOf(field.Name) is { } completer)
        {
            attributes.Add(new ArgumentCompleterAttribute(completer));
        }

        if (field.Name == "init_lora_weights" && type == typeof(string))
        {
            attributes.Add(new ArgumentCompleterAttribute(typeof(InitialisationCompleter)));
        }

        if (field.PresetText is { } preset && type != typeof(SwitchParameter))
        {
            attributes.Add(new PSDefaultValueAttribute { Value = preset, Help = preset });
        }

        return attributes;
    }

    /// <summary>What offers values of a field whose type doesn't tell them.</summary>
    private static Type? CompleterOf(string field) => field switch
    {
        "layers_pattern" => typeof(LayerListCompleter),
        "target_parameters" => typeof(ParameterNameCompleter),
        _ => null,
    };

    /// <summary>The name of the parameter that takes a regular expression where a field takes one in place of names.</summary>
    private static string? PatternName(ConfigField field) =>
        field.Property.PropertyType == typeof(ModuleNames) && field.ParameterName.EndsWith("Module", StringComparison.Ordinal)
            ? field.ParameterName[..^"Module".Length] + "Pattern"
            : null;

    private bool IsGiven(string name) => _parameters.TryGetValue(name, out var parameter) && parameter.IsSet;

    /// <summary>A field's value as the file would have it, or null where nothing was said.</summary>
    /// <exception cref="PeftException"><c>TargetModuleInvalid</c> or <c>ParametersContradict</c>.</exception>
    private JsonNode? Given(ConfigField field)
    {
        var name = field.ParameterName;
        if (PatternName(field) is { } patternName && IsGiven(patternName))
        {
            return !IsGiven(name) ? Json(_parameters[patternName].Value) : throw new PeftException("ParametersContradict", $"-{name} and -{patternName} can't both say which modules are meant.")
            {
                Target = patternName,
                RecommendedAction = "Leave one of them out.",
            };
        }

        if (!IsGiven(name))
        {
            return field.Declaration.Preset is { } preset ? JsonValue.Create(preset) : null;
        }

        var value = _parameters[name].Value;
        return field.Property.PropertyType == typeof(ModuleNames) ? Names(field, (string[])value)
            : value is string path && s_pathFields.Contains(field.Name) ? JsonValue.Create(Placed(path))
            : Json(value);
    }

    /// <summary>A path from where the shell stands, which the process needn't; any other name as it is.</summary>
    private string Placed(string path)
    {
        try
        {
            var full = SessionState.Path.GetUnresolvedProviderPathFromPSPath(path);
            return Path.Exists(full) ? full : path;
        }
        catch (Exception error) when (error is SessionStateException or NotSupportedException)
        {
            return path;
        }
    }

    private static JsonNode? Json(object? value) =>
        value is SwitchParameter given ? JsonValue.Create(given.IsPresent) : JsonSerializer.SerializeToNode(DatasetRow.Value(value));

    private static JsonNode Names(ConfigField field, string[] names)
    {
        if (Array.Find(names, static name => name.AsSpan().ContainsAny(s_patternCharacters)) is { } pattern)
        {
            throw new PeftException("TargetModuleInvalid", $"'{pattern}' is no name of a module.")
            {
                Target = pattern,
                RecommendedAction = $"Give a regular expression with -{PatternName(field)}; it has to match a module's whole path.",
            };
        }

        return names is [var only] && only.Equals("all-linear", StringComparison.OrdinalIgnoreCase)
            ? JsonValue.Create(ModuleNames.AllLinear.Pattern!)
            : new JsonArray([.. names.Select(static name => JsonValue.Create(name))]);
    }
}
