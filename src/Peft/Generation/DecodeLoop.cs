using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Generation;

/// <summary>A row's ids and state while a batch is decoded.</summary>
internal sealed class DecodeRow
{
    public DecodeRow(int index, IReadOnlyList<int> prompt, TokenSampler sampler)
    {
        Index = index;
        Ids = [.. prompt];
        PromptLength = prompt.Count;
        Sampler = sampler;
    }

    /// <summary>Index in the batch as it was given.</summary>
    public int Index { get; }

    public List<int> Ids { get; }

    public int PromptLength { get; }

    public int Added => Ids.Count - PromptLength;

    public TokenSampler Sampler { get; }

    public FinishReason? Finished { get; set; }

    /// <summary>Whether every token was chosen by scores that are numbers.</summary>
    public bool IsFinite { get; set; } = true;
}

/// <summary>
/// Continues a batch token by token: prompts are padded on the left, positions count tokens alone, keys and values are kept,
/// and rows that are finished leave the batch.
/// </summary>
internal sealed class DecodeLoop(PeftModel owner, CausalModel model, AdapterSelection? selection, GenerationOptions options, IReadOnlyList<int> endOfText, int padTokenId)
{
    /// <summary>Runs to the end of every row.</summary>
    /// <param name="rows">At least one row, each with at least one id.</param>
    /// <param name="onToken">Called with each added token; may set <see cref="DecodeRow.Finished"/>.</param>
    /// <param name="device">Where the model is.</param>
    /// <param name="cancellation">Looked at before every token and between layers.</param>
    public void Run(IReadOnlyList<DecodeRow> rows, Action<DecodeRow, int> onToken, Device device, CancellationToken cancellation)
    {
        using var noGrad = no_grad();
        using var cache = options.UseCache ? new ModelCache() : null;
        var active = rows.ToList();
        Tensor? mask = null;
        try
        {
            while (active.Count > 0)
            {
                cancellation.ThrowIfCancellationRequested();
                using var scope = NewDisposeScope();
                Step(active, cache, ref mask, onToken, device, cancellation);
                DropFinished(active, cache, ref mask, device);
            }
        }
        finally
        {
            mask?.Dispose();
        }
    }

    private void Step(
        List<DecodeRow> active, ModelCache? cache, ref Tensor? mask, Action<DecodeRow, int> onToken, Device device, CancellationToken cancellation)
    {
        if (cache is not null && !model.Backbone.CanContinue(cache.Length, cache.Length + 1))
        {
            cache.Clear();
        }

        var first = cache is null || cache.Length == 0;
        var (ids, positions, padded) = first ? WholeRows(active, device) : LastTokens(active, device);
        var length = ids.shape[1];
        if (first)
        {
            Replace(ref mask, padded);
        }
        else if (mask is not null)
        {
            Replace(ref mask, cat([mask, ones([active.Count, 1], dtype: int64, device: device)], 1));
        }

        var context = owner.NewPass(new ForwardContext
        {
            Rows = active.Count,
            Length = length,
            Positions = mask is null ? null : positions,
            AttentionMask = mask,
            Cache = cache,
            Cancellation = cancellation,
        }, selection);
        Choose(active, model.Logits(model.Forward(ids, context).LastPosition(), context), onToken);
    }

    private void Choose(List<DecodeRow> active, Tensor logits, Action<DecodeRow, int> onToken)
    {
        if (active[0].Sampler.IsPlainGreedy)
        {
            Accept(active, logits.argmax(-1), logits, onToken);
            return;
        }

        if (logits.device_type != DeviceType.CPU && DeviceSampling.Serves(options))
        {
            Accept(active, DeviceSampling.Draw(logits, options, [.. active.Select(static row => row.Sampler.NextDraw())]), logits, onToken);
            return;
        }

        var scores = logits.to_type(ScalarType.Float32).cpu().contiguous().data<float>().ToArray();
        var width = scores.Length / active.Count;
        for (var i = 0; i < active.Count; i++)
        {
            var row = active[i];
            var ids = System.Runtime.InteropServices.CollectionsMarshal.AsSpan(row.Ids);
            var own = scores.AsSpan(i * width, width);
            row.IsFinite &= float.IsFinite(System.Numerics.Tensors.TensorPrimitives.Max<float>(own));
            Accept(row, row.Sampler.Choose(ids, row.Added, own), onToken);
        }
    }

    /// <summary>Takes tokens that were chosen where the scores are; one copy brings them and whether the scores were numbers.</summary>
    private void Accept(List<DecodeRow> active, Tensor chosen, Tensor logits, Action<DecodeRow, int> onToken)
    {
        var found = stack([chosen.to(ScalarType.Float64), logits.amax([-1]).to(ScalarType.Float64)]).cpu().data<double>().ToArray();
        for (var i = 0; i < active.Count; i++)
        {
            active[i].IsFinite &= double.IsFinite(found[active.Count + i]);
            Accept(active[i], (int)found[i], onToken);
        }
    }

    private void Accept(DecodeRow row, int id, Action<DecodeRow, int> onToken)
    {
        row.Ids.Add(id);
        if (endOfText.Contains(id))
        {
            row.Finished = FinishReason.EndOfText;
        }
        else if (row.Added >= options.MaxNewTokens)
        {
            row.Finished = FinishReason.Length;
        }

        onToken(row, id);
    }

    private (Tensor Ids, Tensor? Positions, Tensor? Mask) WholeRows(List<DecodeRow> active, Device device)
    {
        var longest = active.Max(static row => row.Ids.Count);
        var ids = new long[active.Count * longest];
        var mask = new long[ids.Length];
        var positions = new long[ids.Length];
        for (var r = 0; r < active.Count; r++)
        {
            var padding = longest - active[r].Ids.Count;
            for (var t = 0; t < longest; t++)
            {
                var at = (r * longest) + t;
                var isToken = t >= padding;
                ids[at] = isToken ? active[r].Ids[t - padding] : padTokenId;
                mask[at] = isToken ? 1 : 0;
                positions[at] = isToken ? t - padding : 0;
            }
        }

        var shape = new long[] { active.Count, longest };
        var isPadded = active.Exists(row => row.Ids.Count != longest);
        return (
            tensor(ids, shape, device: device),
            isPadded ? tensor(positions, shape, device: device) : null,
            isPadded ? tensor(mask, shape, device: device) : null);
    }

    private static (Tensor Ids, Tensor? Positions, Tensor? Mask) LastTokens(List<DecodeRow> active, Device device)
    {
        var shape = new long[] { active.Count, 1 };
        var ids = active.Select(static row => (long)row.Ids[^1]).ToArray();
        var positions = active.Select(static row => (long)row.Ids.Count - 1).ToArray();
        return (tensor(ids, shape, device: device), tensor(positions, shape, device: device), null);
    }

    private static void DropFinished(List<DecodeRow> active, ModelCache? cache, ref Tensor? mask, Device device)
    {
        if (!active.Exists(static row => row.Finished is not null))
        {
            return;
        }

        var stay = Enumerable.Range(0, active.Count).Where(i => active[i].Finished is null).Select(static i => (long)i).ToArray();
        active.RemoveAll(static row => row.Finished is not null);
        if (active.Count > 0 && cache is not null)
        {
            using var rows = tensor(stay, device: device);
            cache.SelectRows(rows);
            if (mask is not null)
            {
                Replace(ref mask, mask.index_select(0, rows));
            }
        }
    }

    private static void Replace(ref Tensor? held, Tensor? by)
    {
        held?.Dispose();
        held = by?.DetachFromDisposeScope();
    }
}
