using System.Globalization;
using Peft.Diffusion.Adapters;
using Peft.Models;

namespace Peft.Diffusion.SingleFiles;

/// <summary>How a checkpoint in one file holds a parameter.</summary>
internal enum CheckpointForm
{
    /// <summary>As it is.</summary>
    Same,

    /// <summary>The matrix of a linear layer as that of a convolution of one tap.</summary>
    OneTap,

    /// <summary>Rows and columns exchanged.</summary>
    Transposed,

    /// <summary>Queries, keys and values joined along the rows.</summary>
    Third,
}

/// <summary>Where a checkpoint in one file holds a parameter.</summary>
/// <param name="Name">The tensor's name.</param>
/// <param name="Form">How.</param>
/// <param name="Index">Which third, of those that are joined.</param>
internal readonly record struct CheckpointPlace(string Name, CheckpointForm Form = CheckpointForm.Same, int Index = 0);

/// <summary>
/// Names in the single files that web interfaces and the original scripts read (<c>model.diffusion_model.input_blocks.1.0…</c>), for each parameter of a part
/// in the layout of diffusers. The same map serves reading and writing.
/// </summary>
internal static class CheckpointLayout
{
    /// <summary>What every name of the UNet begins with.</summary>
    public const string UNetPrefix = "model.diffusion_model.";

    /// <summary>What every name of the autoencoder begins with.</summary>
    public const string AutoencoderPrefix = "first_stage_model.";

    private static readonly string[] s_projections = ["q_proj", "k_proj", "v_proj"];

    private static readonly (string Tree, string File)[] s_openClip =
    [
        ("layer_norm1.", "ln_1."), ("layer_norm2.", "ln_2."), ("mlp.fc1.", "mlp.c_fc."), ("mlp.fc2.", "mlp.c_proj."), ("self_attn.out_proj.", "attn.out_proj."),
    ];

    /// <summary>The places of a UNet's parameters.</summary>
    /// <param name="unet">Its tree, which need not have weights.</param>
    public static IReadOnlyDictionary<string, CheckpointPlace> OfUNet(Module unet)
    {
        var blocks = OriginalBlocks.Of(unet);
        return Each(unet, path =>
        {
            var dot = path.LastIndexOf('.');
            return blocks.PathOf(path[..dot]) is { } module ? new CheckpointPlace(UNetPrefix + module + path[dot..]) : null;
        });
    }

    /// <summary>The places of an autoencoder's parameters.</summary>
    /// <param name="autoencoder">Its tree.</param>
    public static IReadOnlyDictionary<string, CheckpointPlace> OfAutoencoder(Module autoencoder)
    {
        var blocks = autoencoder.Find("decoder.up_blocks")?.Children.Count ?? 0;
        return Each(autoencoder, path => Autoencoder(path, blocks));
    }

    /// <summary>The places of a text encoder's parameters.</summary>
    /// <param name="encoder">Its tree.</param>
    /// <param name="source">Where the file holds it.</param>
    public static IReadOnlyDictionary<string, CheckpointPlace> OfText(Module encoder, CheckpointText source) => Each(encoder, path =>
    {
        const string Prefix = "text_model.";
        var plain = path.StartsWith(Prefix, StringComparison.Ordinal) ? path[Prefix.Length..] : path;
        return source.IsOpenClip
            ? OpenClip(plain) is { } place ? place with { Name = source.Prefix + place.Name } : null
            : new CheckpointPlace(plain == "text_projection.weight" ? source.Prefix + plain : source.TextPrefix + plain);
    });

    private static Dictionary<string, CheckpointPlace> Each(Module part, Func<string, CheckpointPlace?> place)
    {
        var start = part.Path.Length == 0 ? 0 : part.Path.Length + 1;
        var places = new Dictionary<string, CheckpointPlace>(StringComparer.Ordinal);
        foreach (var (path, _, _) in part.NamedParameters())
        {
            if (place(path[start..]) is { } found)
            {
                places.Add(path[start..], found);
            }
        }

        return places;
    }

    private static CheckpointPlace? Autoencoder(string path, int blocks)
    {
        var parts = path.Split('.');
        var (side, rest) = (parts[0], parts[1..]);
        var form = CheckpointForm.Same;
        switch (rest)
        {
            case ["down_blocks" or "up_blocks", var number, var kind, var index, .. var within]:
                var way = rest[0][..^"_blocks".Length];
                var block = int.Parse(number, CultureInfo.InvariantCulture);
                var place = (way == "up" ? blocks - 1 - block : block).ToString(CultureInfo.InvariantCulture);
                rest = kind == "resnets" ? [way, place, "block", index, .. within] : [way, place, way + "sample", .. within];
                break;
            case ["mid_block", "resnets", var index, .. var within]:
                rest = ["mid", $"block_{(index == "0" ? 1 : 2)}", .. within];
                break;
            case ["mid_block", "attentions", _, var layer, .. var within]:
                var isNorm = layer == "group_norm";
                form = isNorm || within[^1] != "weight" ? form : CheckpointForm.OneTap;
                rest = ["mid", "attn_1", isNorm ? "norm" : layer == "to_out" ? "proj_out" : layer["to_".Length..], within[^1]];
                break;
        }

        var name = string.Join('.', [side, .. rest.Select(static part => part switch
        {
            "conv_shortcut" => "nin_shortcut",
            "conv_norm_out" => "norm_out",
            _ => part,
        })]);
        return new CheckpointPlace(AutoencoderPrefix + name, form);
    }

    private static CheckpointPlace? OpenClip(string path)
    {
        switch (path)
        {
            case "embeddings.token_embedding.weight":
                return new("token_embedding.weight");
            case "embeddings.position_embedding.weight":
                return new("positional_embedding");
            case "text_projection.weight":
                return new("text_projection", CheckpointForm.Transposed);
        }

        if (path.StartsWith("final_layer_norm.", StringComparison.Ordinal))
        {
            return new(path.Replace("final_layer_norm", "ln_final", StringComparison.Ordinal));
        }

        if (path.Split('.') is not ["encoder", "layers", var index, .. var rest])
        {
            return null;
        }

        var head = $"transformer.resblocks.{index}.";
        if (rest is ["self_attn", var layer, var kind] && Array.IndexOf(s_projections, layer) is var third and >= 0)
        {
            return new($"{head}attn.in_proj_{kind}", CheckpointForm.Third, third);
        }

        var within = string.Join('.', rest);
        return s_openClip.FirstOrDefault(entry => within.StartsWith(entry.Tree, StringComparison.Ordinal)) is { Tree: { } tree } rule
            ? new(head + rule.File + within[tree.Length..])
            : null;
    }
}
