using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Peft.Adapters.Model;
using Peft.Diffusion;
using Peft.Files;
using Peft.Images;
using Peft.Models;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Training.Diffusion;

/// <summary>
/// What a model's encoders made of images and captions, in files that trainings share: <c>latents/ab/….safetensors</c> and <c>texts/ab/….safetensors</c>.
/// </summary>
/// <remarks>
/// A file's name is a digest of all that its content follows from: the pixels as they were cut, or the tokens; every weight of the encoder, and its configuration; and which
/// version of this library computed it on which kind of device. So nothing is ever out of date: what changed has another name. A file whose content isn't what
/// was written (each holds a digest of it) is computed and written again.
/// </remarks>
/// <param name="options">Where.</param>
/// <param name="model">The model.</param>
/// <param name="encoders">The same model, by its encoders.</param>
internal sealed class EncoderCache(EncoderCacheOptions options, PeftModel model, ILatentDiffusion encoders)
{
    private const string Latents = "latents";
    private const string Texts = "texts";
    private readonly Dictionary<string, string> _encoders = [];

    /// <summary>How many entries were read.</summary>
    public int Found { get; private set; }

    /// <summary>How many weren't there, or were damaged.</summary>
    public int Missing { get; private set; }

    /// <summary>Mean and deviation of an image's latents.</summary>
    /// <param name="cut">The image as the model sees it.</param>
    /// <param name="encode">Computes them.</param>
    public (Tensor Mean, Tensor Deviation) LatentsOf(PixelImage cut, Func<(Tensor Mean, Tensor Deviation)> encode)
    {
        var key = Key(Latents, encoders.IsOfImageEncoder, Invariant($"{cut.Width} x {cut.Height}"), cut.Pixels);
        return Get(Latents, key, ["mean", "deviation"], () => encode() is var (mean, deviation) ? [mean, deviation] : []) is [var found, var spread] ? (found, spread) : default;
    }

    /// <summary>What the text encoders make of a caption.</summary>
    /// <param name="ids">Its tokens for each of them, on the processor.</param>
    /// <param name="encode">Computes it.</param>
    public TextCondition TextOf(IReadOnlyList<Tensor> ids, Func<TextCondition> encode)
    {
        var tokens = string.Join(" | ", ids.Select(static each => string.Join(' ', each.data<long>().ToArray())));
        var read = Get(Texts, Key(Texts, encoders.IsOfTextEncoder, tokens, []), ["states", "pooled"], () => encode() is var text && text.Pooled is { } pooled ? [text.States, pooled] : [text.States]);
        return new TextCondition(read[0], read.ElementAtOrDefault(1));
    }

    private static string Invariant(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);

    private Tensor[] Get(string kind, string key, string[] names, Func<Tensor[]> compute)
    {
        var place = Path.Combine(options.Folder, kind, key[..2]);
        var path = Path.Combine(place, key + ".safetensors");
        if (Read(path, key, names) is { } found)
        {
            Found++;
            return found;
        }

        Missing++;
        var made = compute();
        if (options.Writes)
        {
            AtomicFile.MakeFolder(place);
            (string, Tensor)[] tensors = [.. names.Zip(made)];
            var metadata = new Dictionary<string, string>(SafetensorsWriter.PyTorchMetadata) { [SaveId.Key] = SaveId.Of(tensors, null, key) };
            try
            {
                SafetensorsWriter.Write(path, tensors, metadata);
            }
            catch (PeftException error) when (error.ErrorId == "FileInUse")
            {
                // Another training reads or writes the same at this moment.
            }
        }

        return made;
    }

    /// <summary>What a file holds, or null where there is none or it isn't as it was written.</summary>
    private static Tensor[]? Read(string path, string key, string[] names)
    {
        if (!File.Exists(path))
        {
            return null;
        }

        using var scope = NewDisposeScope();
        try
        {
            using var file = SafetensorsFile.Open(path);
            (string Name, Tensor Value)[] tensors = [.. names.Where(file.Contains).Select(name => (name, file.Read(name)))];
            return file.Metadata.GetValueOrDefault(SaveId.Key) == SaveId.Of(tensors, null, key) ? [.. tensors.Select(static tensor => tensor.Value.MoveToOuterDisposeScope())] : null;
        }
        catch (PeftException)
        {
            return null;
        }
    }

    private string Key(string kind, Func<string, bool> isOfEncoder, string text, byte[] pixels)
    {
        if (!_encoders.TryGetValue(kind, out var encoder))
        {
            _encoders[kind] = encoder = DigestOf(isOfEncoder);
        }

        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(Encoding.UTF8.GetBytes(Invariant($"{kind} {encoder} {typeof(EncoderCache).Assembly.GetName().Version} {model.Device.type} {text}\n")));
        hash.AppendData(pixels);
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    private string DigestOf(Func<string, bool> isOfEncoder)
    {
        var configurations = model.Base.Descendants().OfType<PretrainedModel>().Where(part => isOfEncoder(part.Path)).Select(static part => part.Config.Document.ToJsonString());
        return SaveId.Of(Weights(), null, configurations);

        IEnumerable<(string Name, Tensor Value)> Weights()
        {
            foreach (var (path, parameter, _) in model.Base.NamedWeights().Where(named => named.Parameter.IsOwner && isOfEncoder(named.Path)))
            {
                using var weights = parameter.Dense(parameter.DataType);
                yield return (path, weights.Tensor);
            }
        }
    }
}
