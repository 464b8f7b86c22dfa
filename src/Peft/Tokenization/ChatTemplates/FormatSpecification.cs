namespace Peft.Tokenization.ChatTemplates;

/// <summary>Fill, alignment, sign, width, grouping, precision and type.</summary>
internal readonly record struct FormatSpecification(char Fill, char Align, char Sign, bool Alternate, int Width, char Grouping, int? Precision, char Type)
{
    /// <summary>Reads the part after the colon.</summary>
    public static FormatSpecification Parse(string text)
    {
        var i = 0;
        var (fill, align) = (' ', '\0');
        if (text.Length > 1 && "<>^=".Contains(text[1], StringComparison.Ordinal))
        {
            (fill, align, i) = (text[0], text[1], 2);
        }
        else if (text.Length > 0 && "<>^=".Contains(text[0], StringComparison.Ordinal))
        {
            (align, i) = (text[0], 1);
        }

        var sign = i < text.Length && text[i] is '+' or '-' or ' ' ? text[i++] : '-';
        var alternate = i < text.Length && text[i] == '#' && i++ >= 0;
        if (i < text.Length && text[i] == '0')
        {
            i++;
            (fill, align) = align == '\0' ? ('0', '=') : (fill, align);
        }

        var width = Digits(text, ref i);
        var grouping = i < text.Length && text[i] is ',' or '_' ? text[i++] : '\0';
        int? precision = null;
        if (i < text.Length && text[i] == '.')
        {
            i++;
            precision = Digits(text, ref i);
        }

        var type = i < text.Length ? text[i++] : '\0';
        return i < text.Length ? throw TemplateErrors.Type("Invalid format specifier") : new(fill, align, sign, alternate, width, grouping, precision, type);
    }

    /// <summary>Reads the flags of a % conversion.</summary>
    public static FormatSpecification ParsePercent(string flags, char type)
    {
        var i = 0;
        var (fill, align, sign, alternate) = (' ', '\0', '-', false);
        for (; i < flags.Length && "-+ #0".Contains(flags[i], StringComparison.Ordinal); i++)
        {
            switch (flags[i])
            {
                case '-':
                    (fill, align) = (' ', '<');
                    break;
                case '+' or ' ':
                    sign = sign == '+' ? '+' : flags[i];
                    break;
                case '#':
                    alternate = true;
                    break;
                default:
                    (fill, align) = align == '<' || type == '\0' ? (fill, align) : ('0', '=');
                    break;
            }
        }

        var width = Digits(flags, ref i);
        int? precision = null;
        if (i < flags.Length && flags[i] == '.')
        {
            i++;
            precision = Digits(flags, ref i);
        }

        return new(fill, align, sign, alternate, width, '\0', precision, type);
    }

    /// <summary>Throws where a number can't be formatted like this.</summary>
    public void CheckNumber(string type)
    {
        if (Type != '\0' && !(type == "int" ? "bcdeEfFgGnoxX%" : "eEfFgGn%").Contains(Type, StringComparison.Ordinal))
        {
            throw TemplateErrors.Type($"Unknown format code '{Type}' for object of type '{type}'");
        }

        var whole = type == "int" && "\0bcdnoxX".Contains(Type, StringComparison.Ordinal);
        if (whole && Precision is not null)
        {
            throw TemplateErrors.Type("Precision not allowed in integer format specifier");
        }

        if ((Grouping == ',' && "bcnoxX".Contains(Type, StringComparison.Ordinal)) || (Grouping == '_' && "cn".Contains(Type, StringComparison.Ordinal)))
        {
            throw TemplateErrors.Type($"Cannot specify '{Grouping}' with '{Type}'.");
        }
    }

    /// <summary>Throws where a text can't be formatted like this.</summary>
    public void CheckText(string specification)
    {
        if (Type is not ('\0' or 's'))
        {
            throw TemplateErrors.Type($"Unknown format code '{Type}' for object of type 'str'");
        }

        // Zeros in front of the width align numbers only, and fill texts at their end.
        if (Grouping != '\0' || Sign != '-' || Alternate || (Align == '=' && specification.Contains('=', StringComparison.Ordinal)))
        {
            throw TemplateErrors.Type("Sign, grouping, alternate form and '=' are not allowed in string format specifier");
        }
    }

    /// <summary>Puts the sign in front, and zeros between it and the digits.</summary>
    public string Signed(string digits, bool negative)
    {
        var sign = negative ? "-" : Sign is '+' or ' ' ? Sign.ToString() : "";
        return Align == '=' ? sign + digits.PadLeft(Math.Max(Width - sign.Length, 0), Fill) : sign + digits;
    }

    /// <summary>Fills up to the width.</summary>
    public string Pad(string text, char otherwise)
    {
        var missing = Width - PythonText.Length(text);
        if (missing <= 0)
        {
            return text;
        }

        var left = (Align == '\0' ? otherwise : Align) switch
        {
            '<' => 0,
            '^' => missing / 2,
            _ => missing,
        };
        return new string(Fill, left) + text + new string(Fill, missing - left);
    }

    private static int Digits(string text, ref int i)
    {
        var value = 0;
        for (; i < text.Length && char.IsAsciiDigit(text[i]); i++)
        {
            value = Math.Min((value * 10) + text[i] - '0', 100_000_000);
        }

        TemplateRun.CheckText(value);
        return value > 100_000 ? throw TemplateErrors.Limit("The chat template asks for a width that is too large.") : value;
    }
}
