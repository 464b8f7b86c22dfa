using Peft.Models;
using Peft.Models.Heads;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>The least that continues text: the most likely token each time, with a cache.</summary>
internal static class GreedyLoop
{
    /// <summary>Tokens that follow the prompt, up to a number or to an end token, which is among them.</summary>
    public static long[] Continue(CausalModel model, Tensor prompt, int count, IReadOnlyList<int> endTokens)
    {
        using var cache = new ModelCache();
        var context = new ForwardContext { Cache = cache };
        var tokens = new List<long>();
        var next = prompt.alias();
        while (tokens.Count < count && !(tokens.Count > 0 && endTokens.Contains((int)tokens[^1])))
        {
            using var scope = NewDisposeScope();
            var output = model.Forward(next, context);
            var best = model.Logits(output.LastPosition(), context).argmax(1, keepdim: true);
            next.Dispose();
            next = best.MoveToOuterDisposeScope();
            tokens.Add(next.item<long>());
        }

        return [.. tokens];
    }
}
