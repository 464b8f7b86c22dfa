using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using static TorchSharp.torch;

namespace Peft.Generation;

/// <summary>When a search for the best continuations of a prompt ends.</summary>
public enum EarlyStopping
{
    /// <summary>When the best that is still open, at its present length, is worse than the worst that is finished.</summary>
    False,

    /// <summary>As soon as there are as many finished continuations as beams.</summary>
    True,

    /// <summary>When nothing open can become better than the worst that is finished, at whatever length.</summary>
    Never,
}

/// <summary>
/// Beam search as transformers' <c>generate</c> has it: of each prompt the likeliest beginnings are kept side by side, and of those that ended the best by their
/// log-probability over a power of their length.
/// </summary>
internal sealed class BeamSearch
{
    // transformers' minus infinity, which orders what it is added to.
    private const float Worst = -1e9f;

    private readonly NextTokens _next;
    private readonly GenerationOptions _options;
    private readonly IReadOnlyList<int> _endOfText;

    /// <summary>Prepares a search.</summary>
    /// <param name="next">Gives the scores.</param>
    /// <param name="options">Number of beams, length penalty, when to stop.</param>
    /// <param name="endOfText">Ids that end a text.</param>
    public BeamSearch(NextTokens next, GenerationOptions options, IReadOnlyList<int> endOfText)
    {
        _next = next;
        _options = options;
        _endOfText = endOfText;
    }

    private int Beams => _options.BeamCount;

    /// <summary>Runs to the end of every prompt.</summary>
    /// <param name="rows">A row a prompt.</param>
    /// <param name="stops">Says why a continuation has ended, beside its length and the end of the text; null for not yet.</param>
    /// <param name="onStep">Called with each prompt's row after every step.</param>
    /// <param name="cancellation">Looked at before every token and between layers.</param>
    /// <returns>The best continuations of each prompt, the best first: <see cref="GenerationOptions.ReturnCount"/> each, in the prompts' order.</returns>
    public IReadOnlyList<DecodeRow> Run(IReadOnlyList<DecodeRow> rows, Func<DecodeRow, FinishReason?> stops, Action<DecodeRow> onStep, CancellationToken cancellation)
    {
        using var noGrad = no_grad();
        var prompts = rows.Select(row => new Prompt(this, row)).ToArray();
        var open = prompts.ToList();
        while (open.Count > 0)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            DecodeRow[] running = [.. open.SelectMany(static prompt => prompt.Running)];
            var scores = nn.functional.log_softmax(_next.Scores(running, cancellation).to_type(ScalarType.Float32), -1).cpu().contiguous().data<float>().ToArray();
            var width = scores.Length / running.Length;
            List<long> kept = [];
            var first = 0;
            foreach (var prompt in open)
            {
                var count = prompt.Running.Count;
                var own = prompt.Step(scores.AsSpan(first * width, count * width), width, stops);
                onStep(prompt.Running[0]);
                if (!prompt.IsDone)
                {
                    kept.AddRange(own.Select(beam => (long)(first + beam)));
                }

                first += count;
            }

            open.RemoveAll(static prompt => prompt.IsDone);
            if (open.Count > 0)
            {
                _next.Select(kept);
            }
        }

        return [.. prompts.SelectMany(prompt => prompt.Best(_options.ReturnCount))];
    }

    /// <summary>The search of one prompt.</summary>
    private sealed class Prompt
    {
        private readonly BeamSearch _search;
        private readonly DecodeRow _start;
        private float[] _runningScores = [0];
        private (DecodeRow Row, float Score, bool IsFinished)[] _finished;
        private bool _canImprove = true;

        public Prompt(BeamSearch search, DecodeRow start)
        {
            _search = search;
            _start = start;
            Running = [start];
            _finished = [.. Enumerable.Repeat((start, Worst, false), search.Beams)];
        }

        /// <summary>What is still open. At first one row, for all beams begin alike.</summary>
        public IReadOnlyList<DecodeRow> Running { get; private set; }

        public bool IsDone { get; private set; }

        /// <summary>Goes on by a token.</summary>
        /// <param name="scores">Log-probabilities [running, width].</param>
        /// <param name="width">Size of the vocabulary.</param>
        /// <param name="stops">As for the search.</param>
        /// <returns>Which of the rows that were running the ones that run now go on from.</returns>
        public int[] Step(Span<float> scores, int width, Func<DecodeRow, FinishReason?> stops)
        {
            for (var beam = 0; beam < Running.Count; beam++)
            {
                var row = Running[beam];
                var own = scores.Slice(beam * width, width);
                row.IsFinite &= float.IsFinite(TensorPrimitives.Max<float>(own));
                row.Sampler.Process(CollectionsMarshal.AsSpan(row.Ids), row.Added, own);
                TensorPrimitives.Add(own, _runningScores[beam], own);
            }

            var candidates = Array.ConvertAll(
                Likeliest(scores, Math.Max(2, 1 + _search._endOfText.Count) * _search.Beams),
                best => Candidate(best.Index / width, best.Index % width, best.Value, stops));
            var order = Enumerable.Range(0, candidates.Length)
                .OrderByDescending(i => candidates[i].Score + (candidates[i].Row.Finished is null ? 0 : Worst)).Take(_search.Beams).ToArray();
            var allStopped = Array.TrueForAll(candidates, static candidate => candidate.Row.Finished is not null);
            Finish(candidates);
            _runningScores = [.. order.Select(i => candidates[i].Score + (candidates[i].Row.Finished is null ? 0 : Worst))];
            Running = [.. order.Select(i => candidates[i].Row)];
            CheckStop(allStopped);
            return [.. order.Select(i => candidates[i].Beam)];
        }

        /// <summary>The candidates that a step goes on with, or where it samples as many draws without replacement, in their order.</summary>
        /// <remarks>The largest of log-probabilities with Gumbel noise are such draws (Kool et al. 2019, section 2.3).</remarks>
        private (int Index, float Value)[] Likeliest(ReadOnlySpan<float> scores, int count)
        {
            if (!_search._options.Sample)
            {
                return Top(scores, count);
            }

            var noisy = scores.ToArray();
            for (var i = 0; i < noisy.Length; i++)
            {
                noisy[i] -= noisy[i] > float.NegativeInfinity ? (float)Math.Log(-Math.Log(1 - _start.Sampler.NextDraw())) : 0;
            }

            var drawn = Top(noisy, count);
            for (var i = 0; i < drawn.Length; i++)
            {
                drawn[i].Value = scores[drawn[i].Index];
            }

            return drawn;
        }

        public IEnumerable<DecodeRow> Best(int count)
        {
            foreach (var (row, score, _) in _finished.Take(count))
            {
                row.Score = score;
                yield return row;
            }
        }

        private (DecodeRow Row, int Beam, float Score) Candidate(int beam, int id, float score, Func<DecodeRow, FinishReason?> stops)
        {
            var row = Running[beam].With([.. Running[beam].Ids, id]);
            row.Finished = _search._endOfText.Contains(id) ? FinishReason.EndOfText : stops(row) ?? (row.Added >= row.Sampler.MaxAdded ? FinishReason.Length : null);
            return (row, beam, score);
        }

        /// <summary>Takes up those of the likeliest candidates that ended, where they are better than what ended before.</summary>
        private void Finish((DecodeRow Row, int Beam, float Score)[] candidates)
        {
            var isFull = _search._options.EarlyStopping == EarlyStopping.True && Array.TrueForAll(_finished, static entry => entry.IsFinished);
            var length = (float)Math.Pow(candidates[0].Row.Added, _search._options.LengthPenalty);
            var ended = candidates.Select((candidate, i) =>
            {
                var counts = i < _search.Beams && candidate.Row.Finished is not null;
                var score = candidate.Score / length;
                score = isFull ? score + Worst : score;
                score = _canImprove ? score : score + Worst;
                return (candidate.Row, Score: counts ? score : score + Worst, IsFinished: counts);
            });
            _finished = [.. _finished.Concat(ended).OrderByDescending(static entry => entry.Score).Take(_search.Beams)];
        }

        private void CheckStop(bool allStopped)
        {
            var added = Running[0].Added;
            var hypothetical = _search._options.EarlyStopping == EarlyStopping.Never && _search._options.LengthPenalty > 0 ? _start.Sampler.MaxAdded : added;
            var best = _runningScores[0] / (float)Math.Pow(hypothetical, _search._options.LengthPenalty);
            var worst = _finished.Min(static entry => entry.Score);
            _canImprove &= _finished.Any(entry => best > (entry.IsFinished ? worst : Worst));
            IsDone = !_canImprove || allStopped || (_search._options.EarlyStopping == EarlyStopping.True && Array.TrueForAll(_finished, static entry => entry.IsFinished));
        }

        /// <summary>The largest values with their indices, the largest first; of equal ones the first.</summary>
        private static (int Index, float Value)[] Top(ReadOnlySpan<float> values, int count)
        {
            var queue = new PriorityQueue<int, (float Value, int Order)>(count + 1);
            for (var i = 0; i < values.Length; i++)
            {
                if (queue.Count < count)
                {
                    queue.Enqueue(i, (values[i], -i));
                }
                else if (queue.TryPeek(out _, out var least) && values[i] > least.Value)
                {
                    queue.DequeueEnqueue(i, (values[i], -i));
                }
            }

            var found = new (int Index, float Value)[queue.Count];
            for (var i = found.Length - 1; i >= 0; i--)
            {
                var index = queue.Dequeue();
                found[i] = (index, values[index]);
            }

            return found;
        }
    }
}
