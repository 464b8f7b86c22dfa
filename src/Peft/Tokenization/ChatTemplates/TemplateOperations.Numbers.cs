using System.Numerics;

namespace Peft.Tokenization.ChatTemplates;

internal static partial class TemplateOperations
{
    /// <summary>Larger numbers than any template has.</summary>
    private const long MostBits = 1 << 16;

    /// <summary>A boolean, whole or real number as a number, else null.</summary>
    public static object? Number(object? value) => value switch
    {
        bool flag => flag ? BigInteger.One : BigInteger.Zero,
        BigInteger or double => value,
        _ => null,
    };

    /// <summary>A number as a real one.</summary>
    public static double ToDouble(object number)
    {
        if (number is not BigInteger whole)
        {
            return (double)number;
        }

        var real = Nearest(whole);
        return double.IsFinite(real) ? real : throw new TemplateException("int too large to convert to float", "ChatTemplateArithmetic");
    }

    private static object? Whole(TemplateOperator kind, BigInteger left, BigInteger right)
    {
        switch (kind)
        {
            case TemplateOperator.Add:
                return Limited(left + right);
            case TemplateOperator.Subtract:
                return Limited(left - right);
            case TemplateOperator.Multiply:
                CheckBits(left.GetBitLength() + right.GetBitLength());
                return left * right;
            case TemplateOperator.Divide:
                return right.IsZero ? throw Zero("division by zero") : Quotient(left, right);
            case TemplateOperator.FloorDivide or TemplateOperator.Modulo:
                if (right.IsZero)
                {
                    throw Zero("integer division or modulo by zero");
                }

                var quotient = BigInteger.DivRem(left, right, out var remainder);
                var down = !remainder.IsZero && remainder.Sign != right.Sign;
                return kind == TemplateOperator.FloorDivide ? (down ? quotient - 1 : quotient) : (down ? remainder + right : remainder);
            default:
                if (right.Sign < 0)
                {
                    return left.IsZero ? throw Zero("0.0 cannot be raised to a negative power") : Power(ToDouble(left), ToDouble(right));
                }

                if (BigInteger.Abs(left) > 1)
                {
                    CheckBits(right > MostBits ? long.MaxValue : left.GetBitLength() * (long)right);
                }

                return right > int.MaxValue
                    ? (left == -1 && !right.IsEven ? -BigInteger.One : left.IsZero ? BigInteger.Zero : BigInteger.One)
                    : BigInteger.Pow(left, (int)right);
        }
    }

    private static object? Real(TemplateOperator kind, double left, double right)
    {
        switch (kind)
        {
            case TemplateOperator.Add:
                return left + right;
            case TemplateOperator.Subtract:
                return left - right;
            case TemplateOperator.Multiply:
                return left * right;
            case TemplateOperator.Divide:
                return right == 0 ? throw Zero("float division by zero") : left / right;
            case TemplateOperator.FloorDivide:
                return right == 0 ? throw Zero("float floor division by zero") : FloorDivide(left, right);
            case TemplateOperator.Modulo:
                if (right == 0)
                {
                    throw Zero("float modulo by zero");
                }

                return Remainder(left, right);
            default:
                return Power(left, right);
        }
    }

    /// <summary>The real number nearest to a quotient of whole ones, which may both be larger than any real number.</summary>
    private static double Quotient(BigInteger left, BigInteger right)
    {
        const int Bits = 66;
        if (left.GetBitLength() <= 53 && right.GetBitLength() <= 53)
        {
            return (double)left / (double)right;
        }

        // Enough bits of the quotient, the last of which says whether anything was left, decide how to round.
        var shift = (int)(Bits + BigInteger.Abs(right).GetBitLength() - BigInteger.Abs(left).GetBitLength());
        var (above, below) = shift > 0 ? (BigInteger.Abs(left) << shift, BigInteger.Abs(right)) : (BigInteger.Abs(left), BigInteger.Abs(right) << -shift);
        var bits = BigInteger.DivRem(above, below, out var rest);
        bits = rest.IsZero ? bits : bits | BigInteger.One;
        var scaled = Math.ScaleB(Nearest(bits), -shift) * left.Sign * right.Sign;
        return double.IsFinite(scaled) ? scaled : throw new TemplateException("integer division result too large for a float", "ChatTemplateArithmetic");
    }

    /// <summary>The nearest real number, ties to even; .NET's own conversion cuts bits off.</summary>
    private static double Nearest(BigInteger value) => value.GetBitLength() <= 53 ? (double)value : double.Parse(value.ToString(System.Globalization.CultureInfo.InvariantCulture), System.Globalization.CultureInfo.InvariantCulture);

    /// <summary>What is left of a division, with the divisor's sign.</summary>
    private static double Remainder(double left, double right)
    {
        var rest = left % right;
        return rest == 0 ? Math.CopySign(0, right) : rest < 0 != right < 0 ? rest + right : rest;
    }

    /// <summary>A division rounded down, by way of the remainder as in Python, since the quotient itself may have been rounded up.</summary>
    private static double FloorDivide(double left, double right)
    {
        var rest = left % right;
        var quotient = ((left - rest) / right) - (rest != 0 && rest < 0 != right < 0 ? 1 : 0);
        if (quotient == 0)
        {
            return Math.CopySign(0, left / right);
        }

        var floor = Math.Floor(quotient);
        return quotient - floor > 0.5 ? floor + 1 : floor;
    }

    private static double Power(double left, double right)
    {
        if (left == 0 && right < 0)
        {
            throw Zero("0.0 cannot be raised to a negative power");
        }

        if (left < 0 && double.IsFinite(left) && double.IsFinite(right) && Math.Floor(right) != right)
        {
            throw TemplateErrors.Unsafe("Chat templates have no use for complex numbers.");
        }

        var power = Math.Pow(left, right);
        return double.IsInfinity(power) && double.IsFinite(left) && double.IsFinite(right) ? throw TooLarge() : power;
    }

    private static TemplateException TooLarge() => new("(34, 'Numerical result out of range')", "ChatTemplateArithmetic");

    /// <summary>The order of two numbers, exact also between whole and real ones; null where one is no number.</summary>
    private static int? CompareNumbers(object left, object right)
    {
        switch (left, right)
        {
            case (BigInteger x, BigInteger y):
                return x.CompareTo(y);
            case (double x, double y):
                return double.IsNaN(x) || double.IsNaN(y) ? null : x.CompareTo(y);
            case (double, BigInteger):
                return -CompareNumbers(right, left);
        }

        var (whole, real) = ((BigInteger)left, (double)right);
        if (!double.IsFinite(real))
        {
            return double.IsNaN(real) ? null : real > 0 ? -1 : 1;
        }

        var floor = Math.Floor(real);
        var order = whole.CompareTo(new BigInteger(floor));
        return order == 0 && floor < real ? -1 : order;
    }

    private static BigInteger Limited(BigInteger value)
    {
        CheckBits(value.GetBitLength());
        return value;
    }

    private static void CheckBits(long bits)
    {
        if (bits > MostBits)
        {
            throw TemplateErrors.Limit("The chat template computes with numbers that are too large.");
        }
    }

    private static TemplateException Zero(string message) => new(message, "ChatTemplateArithmetic");
}
