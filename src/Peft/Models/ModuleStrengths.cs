using System.Globalization;

namespace Peft.Models;

/// <summary>Strengths by module: the entry with the longest path above or at a module counts for it, 1 where there is none.</summary>
public sealed class ModuleStrengths
{
    private readonly Dictionary<string, float> _byPath;

    /// <summary>Takes strengths.</summary>
    /// <param name="byPath">Strengths by the paths of modules, each for all that is below.</param>
    /// <param name="text">How they were asked for, which is what they print.</param>
    /// <exception cref="PeftException"><c>AdapterWeightInvalid</c>: one is no number to multiply with.</exception>
    public ModuleStrengths(IEnumerable<KeyValuePair<string, float>> byPath, string text)
    {
        _byPath = new Dictionary<string, float>(byPath, StringComparer.Ordinal);
        Text = text;
        foreach (var unfit in _byPath.Where(static entry => !float.IsFinite(entry.Value)))
        {
            throw new PeftException("AdapterWeightInvalid", string.Create(CultureInfo.InvariantCulture, $"The strength of '{unfit.Key}' is {unfit.Value}, which is no number to multiply with."))
            {
                Target = unfit.Key,
                RecommendedAction = "Give a finite number; 1 is full strength.",
            };
        }
    }

    /// <summary>How they were asked for.</summary>
    public string Text { get; }

    /// <summary>The strength of a module.</summary>
    /// <param name="path">Its path.</param>
    public float Of(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        for (var end = path.Length; end > 0; end = path.LastIndexOf('.', end - 1))
        {
            if (_byPath.TryGetValue(path[..end], out var strength))
            {
                return strength;
            }
        }

        return 1;
    }

    /// <inheritdoc/>
    public override string ToString() => Text;
}
