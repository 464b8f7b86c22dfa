using System.Text.RegularExpressions;
using Peft.Adapters.Methods.TextualInversion;
using Peft.Adapters.Slots;
using Peft.Models;

namespace Peft.Diffusion.Prompts;

/// <summary>Words of a prompt that stand for vectors of their own: those of textual inversions that act on a text encoder.</summary>
public sealed class PromptWords
{
    private readonly Dictionary<string, int[]> _ids;
    private readonly Regex? _words;

    private PromptWords(Dictionary<string, int[]> ids)
    {
        _ids = ids;
        if (ids.Count > 0)
        {
            // A word is whole where its ends are letters; of words that begin alike the longest counts.
            var words = ids.Keys.OrderByDescending(static word => word.Length).Select(static word =>
                (char.IsLetterOrDigit(word[0]) ? @"(?<!\w)" : "") + Regex.Escape(word) + (char.IsLetterOrDigit(word[^1]) ? @"(?!\w)" : ""));
            _words = new Regex(string.Join('|', words), RegexOptions.IgnoreCase | RegexOptions.CultureInvariant, TimeSpan.FromSeconds(5));
        }
    }

    /// <summary>No words.</summary>
    public static PromptWords None { get; } = new([]);

    /// <summary>The words of the adapters that act on a text encoder; of two with one word the later.</summary>
    /// <param name="encoder">The text encoder.</param>
    /// <param name="selection">Which adapters act; null for none.</param>
    public static PromptWords Of(PretrainedModel encoder, AdapterSelection? selection)
    {
        ArgumentNullException.ThrowIfNull(encoder);
        if (selection is null || encoder.Backbone.TokenEmbeddings?.Weight.Slot is not AdapterSlot slot)
        {
            return None;
        }

        Dictionary<string, int[]> ids = new(StringComparer.OrdinalIgnoreCase);
        foreach (var layer in selection.Order.Select(entry => slot[entry.Name]).OfType<TextualInversionLayer>())
        {
            ids[layer.Token] = [.. Enumerable.Range(layer.FirstId, layer.Count)];
        }

        return ids.Count == 0 ? None : new PromptWords(ids);
    }

    /// <summary>Cuts a text at the words.</summary>
    /// <param name="text">The text.</param>
    /// <returns>Pieces of the text, and between them the ids of words.</returns>
    internal IEnumerable<(string Text, int[] Ids)> Split(string text)
    {
        var start = 0;
        foreach (var match in _words?.Matches(text).AsEnumerable() ?? [])
        {
            yield return (text[start..match.Index], _ids[match.Value]);
            start = match.Index + match.Length;
        }

        yield return (text[start..], []);
    }
}
