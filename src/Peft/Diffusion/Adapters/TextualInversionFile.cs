using Peft.Adapters.Files;
using Peft.Adapters.Methods.TextualInversion;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Diffusion.Adapters;

/// <summary>A file of a textual inversion: the vectors of one word, for one text encoder or for SDXL's two.</summary>
internal sealed class TextualInversionFile
{
    private const string Unnamed = "emb_params";
    private const string SecondEnding = "_2";

    /// <summary>Names that the web UI and trainers give vectors without saying the word.</summary>
    private static readonly string[] s_unnamed = ["string_to_param.*", Unnamed, "*"];

    /// <summary>Names of the vectors of SDXL's text encoders.</summary>
    private static readonly string[] s_large = ["clip_l", "clip_g"];

    private readonly TensorStore _file;
    private readonly IReadOnlyList<(int? Encoder, string Name)> _parts;

    private TextualInversionFile(TensorStore file, IReadOnlyList<(int? Encoder, string Name)> parts, string token)
    {
        (_file, _parts, Token) = (file, parts, token);
        if (parts.Any(part => file.Entry(part.Name).Shape.Count is not (1 or 2)))
        {
            throw new PeftException("TextualInversionInvalid", $"'{file.Path}' is damaged: what it names as vectors isn't a list of them.") { Target = file.Path };
        }

        Count = CountOf(parts[0].Name);
        if (parts.Any(part => CountOf(part.Name) != Count))
        {
            throw new PeftException("TextualInversionInvalid", $"'{file.Path}' is damaged: its text encoders have different numbers of vectors.") { Target = file.Path };
        }
    }

    /// <summary>The word.</summary>
    public string Token { get; }

    /// <summary>Number of vectors.</summary>
    public int Count { get; }

    /// <summary>What a file holds; null where it is none of a textual inversion.</summary>
    /// <param name="file">The file.</param>
    /// <param name="token">The word; null for the one that the file names, or the file's own name.</param>
    public static TextualInversionFile? Of(TensorStore file, string? token)
    {
        List<(int?, string)> parts = [.. s_large.Select(static (name, i) => ((int?)i, name)).Where(part => file.Contains(part.name))];
        if (parts.Count == 0)
        {
            var name = Array.Find(s_unnamed, file.Contains) ?? (file.Names.Count == 1 && DiffusionKeys.Split(file.Names.First()) is null ? file.Names.First() : null);
            if (name is null || file.Entry(name).Shape.Count is not (1 or 2))
            {
                return null;
            }

            token ??= Array.IndexOf(s_unnamed, name) < 0 ? name : null;
            parts.Add((null, name));
        }

        return new TextualInversionFile(file, parts, token ?? Path.GetFileNameWithoutExtension(file.Path).Replace(' ', '-'));
    }

    /// <summary>Loads it into a model.</summary>
    /// <param name="model">A diffusion model, or its text encoder alone.</param>
    /// <param name="path">The file.</param>
    /// <param name="name">The adapter's name.</param>
    /// <exception cref="PeftException"><c>AdapterModelMismatch</c>.</exception>
    public PeftAdapter Load(PeftModel model, string path, string name)
    {
        Embedding[] tables = [.. (model.Base is DiffusionModel whole ? whole.TextEncoders : [model.Base]).Select(static encoder => encoder.Backbone.TokenEmbeddings).OfType<Embedding>()];
        Dictionary<string, FormedTensor> formed = new(StringComparer.Ordinal);
        List<string> targets = [];
        foreach (var (encoder, part) in _parts)
        {
            var width = _file.Entry(part).Shape[^1];
            var table = encoder is { } index ? tables.ElementAtOrDefault(index) : Array.Find(tables, table => table.Size == width);
            if (table is null || table.Size != width || (encoder is not null && tables.Length != s_large.Length))
            {
                throw new PeftException("AdapterModelMismatch", FormattableString.Invariant($"'{path}' doesn't fit '{model.Name}': its vectors ({part}) have the width {width}, and the text encoders of the model read {string.Join(" and ", tables.Select(static table => table.Size))}. Nothing was changed."))
                {
                    Target = path,
                    RecommendedAction = "Use it with the model that it was made for: a width of 768 is of Stable Diffusion 1, 1024 of 2, two files or clip_l and clip_g of XL.",
                };
            }

            targets.Add(table.Path);
            formed.Add($"{AdapterFile.Prefix}{table.Path}.{TextualInversionLayer.Key}", new FormedTensor([Count, width], () => Read(part)));
        }

        var config = new TextualInversionConfig { Token = Token, Vectors = Count, TargetModules = ModuleNames.Of(targets) };
        var tensors = new FormedTensors(_file, _file.Names.ToHashSet(StringComparer.Ordinal), formed);
        return model.LoadAdapter(name, () => AdapterFactory.Load(model, config, tensors, name, path, []));
    }

    /// <summary>Writes it in another format.</summary>
    public AdapterFormatReport Convert(string path, DiffusionAdapterFormat format, ScalarType? dataType) =>
        Write(path, format, Token, [.. _parts.Select(part => (part.Encoder, Read(part.Name)))], dataType);

    /// <summary>Writes an adapter of a model.</summary>
    /// <param name="model">The model.</param>
    /// <param name="adapter">The adapter.</param>
    /// <param name="path">The file; replaced where it is there.</param>
    /// <param name="format">diffusers' form names the word, a file for each text encoder; kohya's and the web UI's doesn't, and has both in one.</param>
    /// <param name="dataType">Type of the vectors; null for float32.</param>
    public static AdapterFormatReport Save(PretrainedModel model, TextualInversionAdapter adapter, string path, DiffusionAdapterFormat format, ScalarType? dataType)
    {
        var encoders = model is DiffusionModel { TextEncoders: { Count: > 1 } several } ? several.Select(static encoder => encoder.Backbone.TokenEmbeddings).ToList() : null;
        return Write(
            path,
            format,
            ((TextualInversionConfig)adapter.Config).Token!,
            [.. adapter.Layers.Select(layer => (encoders?.IndexOf((Embedding)layer.Layer.Module), ((TextualInversionLayer)layer.Adapter).Vectors.Data))],
            dataType);
    }

    private static AdapterFormatReport Write(string path, DiffusionAdapterFormat format, string token, IReadOnlyList<(int? Encoder, Tensor Vectors)> parts, ScalarType? dataType)
    {
        List<string> messages = [];
        switch (format)
        {
            case DiffusionAdapterFormat.Kohya:
                WriteFile(path, [.. parts.Select(static part => (part.Encoder is { } encoder ? s_large[encoder] : Unnamed, part.Vectors))]);
                messages.Add($"The file's name is the word there; here it was '{token}'.");
                break;
            case DiffusionAdapterFormat.Diffusers:
                foreach (var (encoder, vectors) in parts)
                {
                    var own = encoder > 0 && parts.Count > 1 ? Path.ChangeExtension(path, null) + SecondEnding + Path.GetExtension(path) : path;
                    WriteFile(own, [(token, vectors)]);
                    if (own != path)
                    {
                        messages.Add($"The second text encoder's vectors are in '{Path.GetFileName(own)}'.");
                    }
                }

                break;
            default:
                throw new PeftException("AdapterFormatLosesAll", $"A file in the format {format} holds nothing of a textual inversion. Nothing was written.")
                {
                    Target = path,
                    RecommendedAction = "Write it in the format Kohya (the web UI's) or Diffusers.",
                };
        }

        return new AdapterFormatReport(path, format, parts.Count, [], Values.Of(messages));

        void WriteFile(string file, IReadOnlyList<(string Name, Tensor Value)> tensors) =>
            SafetensorsWriter.Write(file, [.. tensors.Select(entry => (entry.Name, entry.Value.to(dataType ?? ScalarType.Float32)))], SafetensorsWriter.PyTorchMetadata);
    }

    private int CountOf(string name) => _file.Entry(name).Shape is [var count, _] ? (int)count : 1;

    private Tensor Read(string name)
    {
        using var stored = _file.Read(name, ScalarType.Float32);
        return stored.reshape(Count, -1).clone();
    }
}
