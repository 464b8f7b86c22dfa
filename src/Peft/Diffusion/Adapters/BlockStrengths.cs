using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Models;

namespace Peft.Diffusion.Adapters;

/// <summary>
/// Strengths of an adapter by the blocks of a diffusion model, in the two ways in which they are passed around: the web UI's list of numbers (LoRA Block Weight)
/// and diffusers' table.
/// </summary>
public static class BlockStrengths
{
    private const string TextBlock = "BASE";

    /// <summary>
    /// The web UI's list: the text encoders, then the blocks of the original checkpoints on the way down, the one in the middle, and those on the way up; all of
    /// them (26 numbers for Stable Diffusion 1 and 2, 20 for XL), or those with attention alone (17, and 12), the others being 0.
    /// </summary>
    /// <param name="model">The model.</param>
    /// <param name="numbers">The numbers.</param>
    /// <exception cref="PeftException"><c>BlockStrengthsInvalid</c>: the model is no diffusion model, or has other blocks.</exception>
    public static ModuleStrengths Of(PretrainedModel model, IReadOnlyList<float> numbers)
    {
        ArgumentNullException.ThrowIfNull(numbers);
        var modules = ModulesOf(model);
        string[] all = [TextBlock, .. modules.Where(static module => module.Component == DiffusionModules.UNet).Select(BlockOf).OfType<string>().Distinct().OrderBy(PlaceOf)];
        var attending = modules.Where(static module => module.Path.Contains(".attentions.", StringComparison.Ordinal)).Select(BlockOf).OfType<string>().ToHashSet(StringComparer.Ordinal);
        string[] some = [TextBlock, .. all[1..].Where(attending.Contains)];
        var named = numbers.Count == all.Length ? all : numbers.Count == some.Length ? some
            : throw Invalid(FormattableString.Invariant($"{numbers.Count} strengths were given; this model takes {some.Length} ({string.Join(", ", some)}) or {all.Length} (with {string.Join(", ", all.Except(some))})."));
        var byBlock = named.Zip(numbers).ToDictionary(static pair => pair.First, static pair => pair.Second, StringComparer.Ordinal);
        return new ModuleStrengths(
            modules.Select(module => (module, block: module.Component == DiffusionModules.UNet ? BlockOf(module) : TextBlock)).Where(static entry => entry.block is not null)
                .Select(entry => KeyValuePair.Create(entry.module.TreePath, byBlock.GetValueOrDefault(entry.block!))),
            string.Join(',', numbers.Select(static number => number.ToString(CultureInfo.InvariantCulture))));
    }

    /// <summary>
    /// diffusers' table: <c>down</c>, <c>mid</c>, <c>up</c>, <c>text_encoder</c>, <c>text_encoder_2</c> or <c>unet</c>; the first and the third are a number,
    /// or a table of <c>block_0</c> and so on, each a number or a list with one for each transformer of the block. The web UI's names of blocks (<c>IN04</c>, <c>M00</c>, <c>OUT05</c>) do as well. What isn't named is at 1.
    /// </summary>
    /// <param name="model">The model.</param>
    /// <param name="table">The table.</param>
    /// <exception cref="PeftException"><c>BlockStrengthsInvalid</c>: it names what the model hasn't.</exception>
    public static ModuleStrengths Of(PretrainedModel model, JsonObject table)
    {
        ArgumentNullException.ThrowIfNull(table);
        var reader = new TableReader(ModulesOf(model));
        reader.Take(table);
        return new ModuleStrengths(reader.ByPath, table.ToJsonString());
    }

    private static IReadOnlyList<DiffusionModule> ModulesOf(PretrainedModel model) => DiffusionModules.Of(model)?.All ?? throw Invalid($"{model.ClassName} is no diffusion model; strengths by block are for those.");

    /// <summary>The web UI's name of a module's block; null outside of blocks.</summary>
    private static string? BlockOf(DiffusionModule module) => module.OriginalPath?.Split('.') switch
    {
        ["input_blocks", var index, ..] => $"IN{index.PadLeft(2, '0')}",
        ["middle_block", ..] => "M00",
        ["output_blocks", var index, ..] => $"OUT{index.PadLeft(2, '0')}",
        _ => null,
    };

    private static string PlaceOf(string block) => (block[0] switch { 'I' => "0", 'M' => "1", _ => "2" }) + block;

    private static PeftException Invalid(string message) => new("BlockStrengthsInvalid", message)
    {
        RecommendedAction = "Give the web UI's numbers, or a table such as @{ down = 0.5; mid = 1; up = @{ block_1 = 0.8, 1, 1 } }.",
    };

    /// <summary>Gathers the strength of each module that a table means.</summary>
    private sealed class TableReader(IReadOnlyList<DiffusionModule> modules)
    {
        /// <summary>Strengths by the modules' paths in the tree.</summary>
        public Dictionary<string, float> ByPath { get; } = new(StringComparer.Ordinal);

        public void Take(JsonObject entries)
        {
            foreach (var (key, value) in entries)
            {
                switch (key)
                {
                    case DiffusionModules.UNet when value is JsonObject inner:
                        Take(inner);
                        break;
                    case DiffusionModules.UNet or DiffusionModules.TextEncoder or DiffusionModules.SecondTextEncoder:
                        Put(key, module => module.Component == key, value);
                        break;
                    case "down" or "up" when value is JsonObject blocks:
                        foreach (var (block, strength) in blocks)
                        {
                            TakeBlock($"{key}_blocks.{(block.StartsWith("block_", StringComparison.Ordinal) ? block["block_".Length..] : throw Invalid($"'{key}' has '{block}', where block_0 and so on stand."))}.", $"{key}.{block}", strength);
                        }

                        break;
                    case "down" or "mid" or "up":
                        var part = key == "mid" ? "mid_block." : $"{key}_blocks.";
                        Put(key, module => module.Component == DiffusionModules.UNet && module.Path.StartsWith(part, StringComparison.Ordinal), value is JsonArray { Count: 1 } only ? only[0] : value);
                        break;
                    default:
                        Put(key, module => module.Component == DiffusionModules.UNet ? key.Equals(BlockOf(module), StringComparison.OrdinalIgnoreCase) : key.Equals(TextBlock, StringComparison.OrdinalIgnoreCase), value);
                        break;
                }
            }
        }

        /// <summary>What has a number within the block goes with the transformer of that number.</summary>
        private void TakeBlock(string start, string name, JsonNode? value)
        {
            if (value is not JsonArray { Count: > 1 } several)
            {
                Put(name, module => module.Path.StartsWith(start, StringComparison.Ordinal), value is JsonArray { Count: 1 } only ? only[0] : value);
                return;
            }

            var count = modules.Where(module => module.Path.StartsWith(start + "attentions.", StringComparison.Ordinal)).Select(static module => module.Path.Split('.')[3]).Distinct().Count();
            if (several.Count != count)
            {
                throw Invalid($"'{name}' has {several.Count} strengths and the block {count} transformers.");
            }

            for (var i = 0; i < count; i++)
            {
                var index = i.ToString(CultureInfo.InvariantCulture);
                Put(name, module => module.Path.StartsWith(start, StringComparison.Ordinal) && module.Path.Split('.')[3] == index, several[i]);
            }
        }

        private void Put(string name, Predicate<DiffusionModule> isMeant, JsonNode? value)
        {
            if (value?.GetValueKind() != JsonValueKind.Number)
            {
                throw Invalid($"'{name}' must be a number; it is {value?.ToJsonString() ?? "null"}.");
            }

            var strength = value.Deserialize<float>();
            var meant = modules.Where(module => isMeant(module)).ToArray();
            foreach (var module in meant)
            {
                ByPath[module.TreePath] = strength;
            }

            if (meant.Length == 0)
            {
                throw Invalid($"The model has no block '{name}'.");
            }
        }
    }
}
