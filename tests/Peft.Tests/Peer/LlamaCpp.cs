using System.Reflection;
using LLama;
using LLama.Common;
using LLama.Native;

namespace Peft.Tests.Peer;

/// <summary>llama.cpp itself: what it makes of a GGUF file, with keys and values in float32 and plain attention.</summary>
internal static class LlamaCpp
{
    private static readonly Lock s_once = new();

    // Which of the package's builds runs everywhere that .NET's own tests do.
    private static string Folder { get; } = Path.Combine(
        typeof(LlamaCpp).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>().First(static entry => entry.Key == "LlamaCpp").Value!,
        "LLamaSharpRuntimes",
        "linux-x64",
        "native",
        System.Runtime.Intrinsics.X86.Avx2.IsSupported ? "avx2" : "noavx");

    /// <summary>Whether it can be had here.</summary>
    public static bool IsThere => OperatingSystem.IsLinux() && File.Exists(Path.Combine(Folder, "libllama.so"));

    /// <summary>Logits of every position.</summary>
    /// <param name="path">The file.</param>
    /// <param name="ids">The tokens.</param>
    /// <param name="adapter">A GGUF file of an adapter, or null.</param>
    public static float[][] Logits(string path, IReadOnlyList<int> ids, string? adapter = null)
    {
        lock (s_once)
        {
            Load();
            var settings = Settings(path);
            using var weights = LLamaWeights.LoadFromFile(settings);
            using var context = weights.CreateContext(settings);
            if (adapter is not null)
            {
                context.NativeHandle.SetLoraAdapters([(weights.NativeHandle.LoadLoraFromFile(adapter), 1)]);
            }

            var batch = new LLamaBatch();
            for (var i = 0; i < ids.Count; i++)
            {
                batch.Add(ids[i], i, LLamaSeqId.Zero, logits: true);
            }

            Assert.Equal(DecodeResult.Ok, context.NativeHandle.Decode(batch));
            return [.. Enumerable.Range(0, ids.Count).Select(i => context.NativeHandle.GetLogitsIth(i).ToArray())];
        }
    }

    /// <summary>The tokens that it makes of a text.</summary>
    /// <param name="path">A file with a vocabulary.</param>
    /// <param name="text">The text.</param>
    public static int[] Tokens(string path, string text)
    {
        lock (s_once)
        {
            using var weights = LLamaWeights.LoadFromFile(Settings(path));
            return [.. weights.Tokenize(text, add_bos: true, special: true, System.Text.Encoding.UTF8).Select(static token => (int)token)];
        }
    }

    /// <summary>The tokens that it makes of texts with a file's vocabulary, whatever else the file lacks; null where it can't be read.</summary>
    /// <param name="path">The file.</param>
    /// <param name="texts">The texts.</param>
    public static int[][]? TokensOf(string path, IEnumerable<string> texts)
    {
        lock (s_once)
        {
            Load();
            try
            {
                using var weights = LLamaWeights.LoadFromFile(Settings(path, vocabulary: true));
                return [.. texts.Select(text => weights.Tokenize(text, add_bos: true, special: true, System.Text.Encoding.UTF8).Select(static token => (int)token).ToArray())];
            }
            catch (LLama.Exceptions.LoadWeightsFailedException)
            {
                return null;
            }
        }
    }

    private static void Load()
    {
        if (!NativeLibraryConfig.LLama.LibraryHasLoaded)
        {
            NativeLibraryConfig.All.WithLogCallback(static (_, _) => { });
            NativeLibraryConfig.LLama.WithLibrary(Path.Combine(Folder, "libllama.so"));
        }
    }

    private static ModelParams Settings(string path, bool vocabulary = false) => new(path)
    {
        VocabOnly = vocabulary,
        ContextSize = 128,
        GpuLayerCount = 0,
        FlashAttention = false,
        TypeK = GGMLType.GGML_TYPE_F32,
        TypeV = GGMLType.GGML_TYPE_F32,
    };
}
