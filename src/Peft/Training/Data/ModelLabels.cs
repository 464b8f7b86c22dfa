using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Models;
using Peft.Models.Heads;

namespace Peft.Training.Data;

/// <summary>The classes of a model's head.</summary>
/// <param name="Names">Their names by number; empty where there are none.</param>
/// <param name="Count">How many there are; null where nobody says.</param>
/// <param name="ProblemType">What a row's label is, by transformers' name; null to go by the label.</param>
public sealed record ModelLabels(IReadOnlyList<string> Names, long? Count, string? ProblemType = null)
{
    /// <summary>Where no model says.</summary>
    public static ModelLabels Unknown { get; } = new([], null);

    /// <summary>The classes that a model's configuration states (<c>id2label</c>, <c>num_labels</c>, <c>problem_type</c>).</summary>
    /// <param name="model">The model.</param>
    public static ModelLabels Of(PretrainedModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        var names = model.Config.Node("id2label") as JsonObject;
        var count = SequenceClassificationModel.Labels(model.Config);
        return new ModelLabels(
            names is null ? [] : [.. Enumerable.Range(0, (int)Math.Min(count, names.Count)).Select(i => (string?)names[i.ToString(CultureInfo.InvariantCulture)] ?? "")],
            count,
            model.Config.String("problem_type"));
    }

    /// <summary>What a row is: a class by name or number, several of them, or a value.</summary>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c>.</exception>
    internal RowTarget Target(TrainingRow row, string column)
    {
        var value = row.Value(column);
        if (value is IReadOnlyList<object?> list)
        {
            return Several(row, column, list);
        }

        if (ProblemType == "regression" || (ProblemType is null && Count == 1) || (Count is null && value is double))
        {
            var number = row.OptionalNumber(column)!.Value;
            return new RowTarget([number], IsClass: false, $"{column}: {number.ToString(CultureInfo.InvariantCulture)}");
        }

        var one = Class(row, column, value);
        return new RowTarget([one], IsClass: true, $"{column}: {Spelled(one)}");
    }

    /// <summary>The number of a class.</summary>
    /// <param name="row">The row.</param>
    /// <param name="column">The column, for messages.</param>
    /// <param name="value">Its name or number.</param>
    /// <param name="mayBeIgnored">Whether -100 says that nothing is learnt.</param>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c>.</exception>
    internal int Class(TrainingRow row, string column, object? value, bool mayBeIgnored = false)
    {
        var text = value switch
        {
            string name => name,
            bool truth => truth ? "1" : "0",
            double number when number == Math.Floor(number) => ((long)number).ToString(CultureInfo.InvariantCulture),
            IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
            _ => "",
        };
        var named = Names.ToList().FindIndex(name => name.Equals(text, StringComparison.OrdinalIgnoreCase));
        if (named >= 0)
        {
            return named;
        }

        return int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var id)
            && ((mayBeIgnored && id == TrainingExample.Ignored) || (id >= 0 && (Count is null || id < Count)))
            ? id
            : throw row.Error(column, string.Create(CultureInfo.InvariantCulture, $"'{text}' is no class of the model, which has {(Count is null ? "numbers from 0" : Names.Count > 0 ? string.Join(", ", Names) : $"the numbers 0 to {Count - 1}")}."));
    }

    /// <summary>Names or numbers of classes; or 1 and 0 for each class there is.</summary>
    private RowTarget Several(TrainingRow row, string column, IReadOnlyList<object?> list)
    {
        var isHot = list.Count == (Count ?? list.Count) && list.All(static entry => entry is 0L or 1L or 0.0 or 1.0 or bool);
        if (!isHot && Count is null)
        {
            throw row.Error(column, "classes by name need a model; without one give 1 or 0 for each class.");
        }

        var chosen = isHot
            ? [.. Enumerable.Range(0, list.Count).Where(i => list[i] is 1L or 1.0 or true)]
            : list.Select(entry => Class(row, column, entry)).ToHashSet();
        var values = Enumerable.Range(0, (int)(Count ?? list.Count)).Select(i => chosen.Contains(i) ? 1.0 : 0.0).ToArray();
        return new RowTarget(values, IsClass: false, $"{column}: {string.Join(", ", chosen.Order().Select(Spelled))}");
    }

    /// <summary>A class by its name, or its number where it has none.</summary>
    internal string Spelled(int id) => id < Names.Count ? Names[id] : id.ToString(CultureInfo.InvariantCulture);
}
