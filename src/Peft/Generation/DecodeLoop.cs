using System.Runtime.InteropServices;
using Peft.Engine;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Generation;

/// <summary>Continues a batch token by token, each row by itself; rows that are finished leave the batch.</summary>
/// <param name="next">Gives the scores.</param>
/// <param name="options">How tokens are chosen.</param>
/// <param name="endOfText">Ids that end a text.</param>
internal sealed class DecodeLoop(NextTokens next, GenerationOptions options, IReadOnlyList<int> endOfText)
{
    private readonly bool _drawsWhereScoresAre = DeviceSampling.Serves(options);

    /// <summary>Runs to the end of every row.</summary>
    /// <param name="rows">At least one row, each with at least one id.</param>
    /// <param name="onToken">Called with each added token; may set <see cref="DecodeRow.Finished"/>.</param>
    /// <param name="cancellation">Looked at before every token and between layers.</param>
    public void Run(IReadOnlyList<DecodeRow> rows, Action<DecodeRow, int> onToken, CancellationToken cancellation)
    {
        using var noGrad = no_grad();
        var active = rows.ToList();
        while (active.Count > 0)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            Choose(active, next.Scores(active, cancellation), onToken);
            DropFinished(active);
        }
    }

    private void Choose(List<DecodeRow> active, Tensor logits, Action<DecodeRow, int> onToken)
    {
        if (active[0].Sampler.IsPlainGreedy)
        {
            if (LargestKernel.Serves(logits))
            {
                Accept(active, LargestKernel.Find(logits), onToken);
                return;
            }

            Accept(active, logits.argmax(-1), logits, onToken);
            return;
        }

        if (_drawsWhereScoresAre && logits.device_type != DeviceType.CPU)
        {
            Accept(active, DeviceSampling.Draw(logits, options, [.. active.Select(static row => row.Sampler.NextDraw())]), logits, onToken);
            return;
        }

        // A copy, which the rules change.
        var scores = logits.to(ScalarType.Float32, copy: true).cpu().contiguous();
        for (var i = 0; i < active.Count; i++)
        {
            var row = active[i];
            using var rowScores = scores.select(0, i);
            var own = Tensors.TensorMemory.Span<float>(rowScores);
            row.IsFinite &= float.IsFinite(System.Numerics.Tensors.TensorPrimitives.Max<float>(own));
            Accept(row, row.Sampler.Choose(CollectionsMarshal.AsSpan(row.Ids), row.Added, own), onToken);
        }
    }

    private void Accept(List<DecodeRow> active, (int Index, float Value)[] likeliest, Action<DecodeRow, int> onToken)
    {
        for (var i = 0; i < active.Count; i++)
        {
            active[i].IsFinite &= float.IsFinite(likeliest[i].Value);
            Accept(active[i], likeliest[i].Index, onToken);
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
        else if (row.Added >= row.Sampler.MaxAdded)
        {
            row.Finished = FinishReason.Length;
        }

        onToken(row, id);
    }

    private void DropFinished(List<DecodeRow> active)
    {
        if (active.Exists(static row => row.Finished is not null))
        {
            var stay = Enumerable.Range(0, active.Count).Where(i => active[i].Finished is null).Select(static i => (long)i).ToArray();
            active.RemoveAll(static row => row.Finished is not null);
            if (active.Count > 0)
            {
                next.Select(stay);
            }
        }
    }
}
