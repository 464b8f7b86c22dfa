using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Diffusion.Adapters;

/// <summary>
/// A textual inversion (Gal et al. 2022): vectors that a text encoder reads in the place of a word. Several vectors are tokens of their own, <c>token</c>,
/// <c>token_1</c> and so on, to which the word expands in a prompt.
/// </summary>
public sealed class TextualInversion : IDisposable
{
    /// <summary>Names under which a file has the vectors of a token that it doesn't name: the web UI's, and that of newer trainers.</summary>
    private static readonly string[] s_unnamed = ["string_to_param.*", "emb_params"];

    private TextualInversion(string token, Tensor vectors) => (Token, Vectors) = (token, vectors);

    /// <summary>The word.</summary>
    public string Token { get; }

    /// <summary>[vectors, width], float32.</summary>
    public Tensor Vectors { get; }

    /// <summary>The tokens, one for each vector.</summary>
    public IReadOnlyList<string> Tokens => [.. Enumerable.Range(0, (int)Vectors.size(0)).Select(index => index == 0 ? Token : FormattableString.Invariant($"{Token}_{index}"))];

    /// <summary>Reads a file of diffusers or of the web UI.</summary>
    /// <param name="path">A safetensors file, or a pickle (.pt, .bin).</param>
    /// <param name="token">The word; null for the one that the file names, or the file's own name.</param>
    /// <exception cref="PeftException"><c>TextualInversionInvalid</c>, or what is wrong with the file.</exception>
    public static TextualInversion Read(string path, string? token = null)
    {
        using var file = TensorStore.OpenFile(path);
        var name = Array.Find(s_unnamed, file.Contains) ?? file.Names.FirstOrDefault();
        if (name is null || file.Entry(name).Shape.Count is not (1 or 2) || (Array.IndexOf(s_unnamed, name) < 0 && file.Names.Count > 1))
        {
            throw new PeftException("TextualInversionInvalid", $"'{path}' holds no textual inversion: one vector or several of one word.")
            {
                Target = path,
                RecommendedAction = "Give a file of one word's vectors; SDXL's, which have those of two encoders, aren't read.",
            };
        }

        var vectors = file.Read(name, ScalarType.Float32).DetachFromDisposeScope();
        token ??= Array.IndexOf(s_unnamed, name) < 0 ? name : Path.GetFileNameWithoutExtension(path);
        return new TextualInversion(token, vectors.dim() == 1 ? vectors.unsqueeze_(0) : vectors);
    }

    /// <summary>A prompt with the word expanded to all of its tokens.</summary>
    /// <param name="prompt">The prompt.</param>
    public string Expand(string prompt)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        return prompt.Replace(Token, string.Join(' ', Tokens), StringComparison.Ordinal);
    }

    /// <inheritdoc/>
    public void Dispose() => Vectors.Dispose();
}
