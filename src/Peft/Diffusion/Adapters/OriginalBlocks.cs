using System.Globalization;
using Peft.Models;

namespace Peft.Diffusion.Adapters;

/// <summary>Paths of a UNet in the layout of the original checkpoints, whose blocks are counted through: <c>input_blocks.4.1.proj_in</c>.</summary>
/// <param name="layers">Residual blocks of a block.</param>
/// <param name="attends">Whether each of the blocks on the way up has attention.</param>
internal sealed class OriginalBlocks(int layers, IReadOnlyList<bool> attends)
{
    private static readonly Dictionary<string, string> s_outside = new(StringComparer.Ordinal)
    {
        ["time_embedding.linear_1"] = "time_embed.0",
        ["time_embedding.linear_2"] = "time_embed.2",
        ["add_embedding.linear_1"] = "label_emb.0.0",
        ["add_embedding.linear_2"] = "label_emb.0.2",
        ["conv_in"] = "input_blocks.0.0",
        ["conv_norm_out"] = "out.0",
        ["conv_out"] = "out.2",
    };

    private static readonly Dictionary<string, string> s_residual = new(StringComparer.Ordinal)
    {
        ["norm1"] = "in_layers.0",
        ["conv1"] = "in_layers.2",
        ["norm2"] = "out_layers.0",
        ["conv2"] = "out_layers.3",
        ["time_emb_proj"] = "emb_layers.1",
        ["conv_shortcut"] = "skip_connection",
    };

    /// <summary>The layout of a UNet, read off its tree.</summary>
    public static OriginalBlocks Of(Module unet) => new(
        unet.Find("down_blocks.0.resnets")?.Children.Count ?? 0,
        [.. (unet.Find("up_blocks")?.Children ?? []).Select(static block => block.Find("attentions") is not null)]);

    /// <summary>The path of a module; null where the layout has none like it.</summary>
    /// <param name="path">The path in diffusers' layout.</param>
    public string? PathOf(string path)
    {
        if (s_outside.TryGetValue(path, out var outside))
        {
            return outside;
        }

        var parts = path.Split('.');
        if (parts is ["mid_block", var kind, var index, ..])
        {
            return Join($"middle_block.{(kind == "attentions" ? 1 : index == "0" ? 0 : 2)}", kind, parts[3..]);
        }

        if (parts.Length < 4 || !int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out var block) || !int.TryParse(parts[3], NumberStyles.None, CultureInfo.InvariantCulture, out var position))
        {
            return null;
        }

        var first = block * (layers + 1);
        return (parts[0], parts[2]) switch
        {
            ("down_blocks", "downsamplers") => Invariant($"input_blocks.{first + layers + 1}.0.op"),
            ("down_blocks", _) => Join(Invariant($"input_blocks.{first + position + 1}.{Place(parts[2])}"), parts[2], parts[4..]),
            ("up_blocks", "upsamplers") => Join(Invariant($"output_blocks.{first + layers}.{(attends.Count > block && attends[block] ? 2 : 1)}"), parts[2], parts[4..]),
            ("up_blocks", _) => Join(Invariant($"output_blocks.{first + position}.{Place(parts[2])}"), parts[2], parts[4..]),
            _ => null,
        };
    }

    private static int Place(string kind) => kind == "resnets" ? 0 : 1;

    private static string Join(string head, string kind, string[] rest)
    {
        var named = kind == "resnets" && rest is [var first, ..] && s_residual.TryGetValue(first, out var former) ? rest[1..].Prepend(former) : rest;
        return string.Join('.', named.Prepend(head));
    }

    private static string Invariant(FormattableString text) => FormattableString.Invariant(text);
}
