using Peft.Tensors;

namespace Peft.Diffusion.Adapters;

/// <summary>Which of the published models one is, or an adapter was made for, as far as that shows.</summary>
internal static class BaseModelKind
{
    /// <summary>Stable Diffusion 1.</summary>
    public const string First = "Stable Diffusion 1";

    /// <summary>Stable Diffusion 2.</summary>
    public const string Second = "Stable Diffusion 2";

    /// <summary>Stable Diffusion XL.</summary>
    public const string Large = "Stable Diffusion XL";

    /// <summary>The kind of a model; null where that isn't clear.</summary>
    public static string? Of(DiffusionModules modules) => modules.HasTwoTextEncoders ? Large : OfWidth(modules.TextWidth);

    /// <summary>What kohya's scripts call the kind of a model in a file's header; null where it isn't clear.</summary>
    public static string? VersionOf(DiffusionModules modules) => Of(modules) switch
    {
        First => "sd_v1",
        Second => "sd_v2",
        Large => "sdxl_base_v1-0",
        _ => null,
    };

    /// <summary>The kind that a file was made for, by what it says of itself, its names and its sizes; null where that isn't clear.</summary>
    public static string? Of(TensorStore file)
    {
        foreach (var key in new[] { "ss_base_model_version", "modelspec.architecture" })
        {
            if (file is SafetensorsFile { Metadata: var metadata } && metadata.TryGetValue(key, out var said) && Said(said) is { } kind)
            {
                return kind;
            }
        }

        return file.Names.Any(static name => name.StartsWith("lora_te2_", StringComparison.Ordinal) || name.StartsWith(DiffusionModules.SecondTextEncoder + ".", StringComparison.Ordinal))
            ? Large
            : OfWidth(WidthOf(file));
    }

    private static string? Said(string text) => text.Contains("xl", StringComparison.OrdinalIgnoreCase) ? Large
        : text.StartsWith("sd_v1", StringComparison.Ordinal) || text.StartsWith("stable-diffusion-v1", StringComparison.Ordinal) ? First
        : text.StartsWith("sd_v2", StringComparison.Ordinal) || text.StartsWith("stable-diffusion-v2", StringComparison.Ordinal) ? Second
        : null;

    /// <summary>The width of the text that the first factor on a projection of it has.</summary>
    private static long? WidthOf(TensorStore file)
    {
        foreach (var name in file.Names)
        {
            if ((name.Contains("attn2.to_k", StringComparison.Ordinal) || name.Contains("attn2_to_k", StringComparison.Ordinal))
                && DiffusionKeys.Split(name) is (_, "lora_down.weight") && file.Entry(name).Shape is [_, var width, ..])
            {
                return width;
            }
        }

        return null;
    }

    private static string? OfWidth(long? width) => width switch
    {
        768 => First,
        1024 => Second,
        2048 => Large,
        _ => null,
    };
}
