namespace Peft.Adapters.Configuration;

/// <summary>
/// Makes a property of a configuration a field of <c>adapter_config.json</c>. This, the property's default and its summary are all there is to say:
/// reading, writing, checking, the cmdlet's parameter and its page come from them.
/// </summary>
/// <param name="name">The field's key in the file, which is an alias of the cmdlet's parameter too.</param>
[AttributeUsage(AttributeTargets.Property)]
public sealed class ConfigFieldAttribute(string name) : Attribute
{
    /// <summary>The field's key in the file.</summary>
    public string Name { get; } = name;

    /// <summary>What the cmdlet calls its parameter; null for the property's name.</summary>
    public string? Parameter { get; init; }

    /// <summary>Other names of the parameter.</summary>
    public string[] Aliases { get; init; } = [];

    /// <summary>What the cmdlet gives where nothing is said, if that is another value than where a file says nothing.</summary>
    public string? Preset { get; init; }

    /// <summary>Position of the parameter, counted from 0; -1 for none.</summary>
    public int Position { get; init; } = -1;

    /// <summary>The least that the number, or each of the numbers, can be.</summary>
    public double Minimum { get; init; } = double.NegativeInfinity;

    /// <summary>The most that the number, or each of the numbers, can be.</summary>
    public double Maximum { get; init; } = double.PositiveInfinity;

    /// <summary>How the file spells the values of an enumeration, in its order, or the texts that are allowed; <c>true</c> and <c>false</c> are truth values there.</summary>
    public string[] Choices { get; init; } = [];

    /// <summary>Whether the field is a text that may be a truth value as well, spelled <c>true</c> or <c>false</c> here.</summary>
    public bool IsSpelling { get; init; }

    /// <summary>Whether the file writes whole numbers with a fraction (0.0), as Python does with what it holds as a float.</summary>
    public bool IsReal { get; init; }

    /// <summary>Id of the error for a value out of range or of no choice.</summary>
    public string ErrorId { get; init; } = "AdapterConfigInvalid";
}

/// <summary>Fields that the classes a configuration derives from declare and that PEFT's configuration of this method hasn't.</summary>
/// <param name="names">The fields' keys in the file.</param>
[AttributeUsage(AttributeTargets.Class)]
public sealed class ConfigWithoutAttribute(params string[] names) : Attribute
{
    /// <summary>The fields' keys in the file.</summary>
    public IReadOnlyList<string> Names { get; } = names;
}

/// <summary>A field of PEFT's configuration of a method that Peft has no code for: kept as it is, and refused when it asks for anything.</summary>
/// <param name="name">The field's key in the file.</param>
/// <param name="unused">The value that means "unused", as JSON.</param>
[AttributeUsage(AttributeTargets.Class, AllowMultiple = true)]
public sealed class ConfigVariantAttribute(string name, string unused = "null") : Attribute
{
    /// <summary>The field's key in the file.</summary>
    public string Name { get; } = name;

    /// <summary>The value that means "unused", as JSON.</summary>
    public string Unused { get; } = unused;

    /// <summary>Whether the field says nothing by itself, so that any value passes.</summary>
    public bool IsIdle { get; init; }

    /// <summary>Whether releases of PEFT before the one that files follow had the field, so that it is read and not written.</summary>
    public bool IsFormer { get; init; }
}
