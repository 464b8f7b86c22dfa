using System.Diagnostics;
using Peft.Adapters.Model;
using Peft.Generation;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Layers;
using Peft.Quantization;
using Peft.Quantization.Blocks;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Benchmarks.Generation;

/// <summary>Greedy continuation of one sequence by 128 tokens, from ids to ids.</summary>
internal static class GenerationBenchmark
{
    private const int Prompt = 32;
    private const int Tokens = 128;

    // Optimised code comes in the background, beside the first of them.
    private const int WarmUps = 10;
    private static readonly string[] s_partsOfPrompt = ["encoder.", "EncDecAttention.k.", "EncDecAttention.v."];

    /// <summary>The job on a shape in a type, beside the peer's.</summary>
    public static Benchmark Job(ModelShape shape, ScalarType type)
    {
        var (label, name) = type == ScalarType.BFloat16 ? ("bf16", "bfloat16") : ("fp32", "float32");
        return new Benchmark(
            $"generate-{shape.Name}-{label}", "tokens/s", () => Measure(shape, type), ["generate", "--shape", shape.Name, "--dtype", name, "--tokens", $"{Tokens}"]);
    }

    /// <summary>The job on a base whose linear layers are quantised, the rest in bfloat16, beside the peer's plain bfloat16 or its bitsandbytes.</summary>
    public static Benchmark Quantised(ModelShape shape, QuantizationConfig config, bool besideBitsAndBytes)
    {
        var kind = config.LoadIn8Bit ? "int8" : config.QuantType.Name;
        IReadOnlyList<string> peer = ["generate", "--shape", shape.Name, "--dtype", "bfloat16", "--tokens", $"{Tokens}"];
        return new Benchmark(
            $"generate-{shape.Name}-{kind}{(besideBitsAndBytes ? "-bnb" : "")}", "tokens/s", () => Measure(shape, ScalarType.BFloat16, model => ModelQuantizer.Quantize(model, config)), besideBitsAndBytes ? [.. peer, "--quantise", kind] : peer);
    }

    /// <summary>The job on a base whose linear layers are blocks of a GGUF type, the rest in bfloat16, beside the peer's plain bfloat16.</summary>
    public static Benchmark Blocks(ModelShape shape, string type) => new(
        $"generate-{shape.Name}-{type}", "tokens/s", () => Measure(shape, ScalarType.BFloat16, model => Pack(model, type)), ["generate", "--shape", shape.Name, "--dtype", "bfloat16", "--tokens", $"{Tokens}"]);

    /// <summary>Tokens a second, with the prompt: the median of five runs, after so many that .NET has compiled what they run.</summary>
    /// <remarks>The share of the memory's rate is told of the tokens behind the first, which the prompt's pass gives: that one is bound by arithmetic.</remarks>
    public static BenchmarkFigure Measure(ModelShape shape, ScalarType type, Action<CausalModel>? pack = null)
    {
        using var noGrad = no_grad();
        var model = shape.CreateAny(type);
        using var owner = new PeftModel(model, shape.Name);
        if (pack is not null)
        {
            pack((CausalModel)model);
        }

        using var prompt = randint(5, (long)shape.Config["vocab_size"]!, [1, Prompt], ScalarType.Int64);
        IReadOnlyList<int> ids = [.. prompt.data<long>().ToArray().Select(static id => (int)id)];
        var cold = Write(owner, ids, Tokens);
        Median(WarmUps, () => Write(owner, ids, Tokens));
        var seconds = Median(5, () => Write(owner, ids, Tokens));
        var first = Median(5, () => Write(owner, ids, 1));
        var peak = new BenchmarkFigure(seconds).PeakBytes;

        var weights = model.NamedParameters().Where(static named => named.Parameter.Shape.Count >= 2 && named.Parameter.IsOwner && !IsOfPrompt(named.Path)).Sum(named => BytesRead(named.Parameter, model.Config));
        var share = weights * (Tokens - 1) / (seconds - first) / MemoryReadRate.Measure();
        return new BenchmarkFigure(Tokens / seconds, share, FormattableString.Invariant($"{seconds:F2} s, of which {first:F3} to the first token; the process's first generation {cold:F2} s.")) { PeakBytes = peak };
    }

    private static double Median(int runs, Func<double> run) => Enumerable.Range(0, runs).Select(_ => run()).Order().ElementAt(runs / 2);

    /// <summary>What a token reads of a weight: of experts those that it visits.</summary>
    private static double BytesRead(Parameter weight, ModelConfig config) =>
        weight.Bytes * (weight.Shape.Count == 3 && config.Integer("num_experts_per_tok") is { } chosen ? (double)chosen / weight.Shape[0] : 1);

    /// <summary>Whether weights are read once, for the prompt: an encoder's, and those that form the keys and values of what it gave.</summary>
    private static bool IsOfPrompt(string path) => s_partsOfPrompt.Any(part => path.Contains(part, StringComparison.Ordinal));

    private static void Pack(CausalModel model, string type)
    {
        var buffer = new UnpackBuffer();
        foreach (var layer in model.Backbone.Descendants().OfType<Linear>())
        {
            layer.Weight.Pack(BlockWeight.Quantize(layer.Weight.Data, type, buffer));
        }

        model.Fuse();
    }

    private static double Write(PeftModel model, IReadOnlyList<int> prompt, int tokens)
    {
        // No token ends the text: what weights of chance write may be any.
        var options = new GenerationOptions { MaxNewTokens = tokens, EndOfTextIds = [int.MaxValue] };
        var clock = Stopwatch.StartNew();
        new TextGenerator(model).Generate([prompt], options);
        return clock.Elapsed.TotalSeconds;
    }
}
