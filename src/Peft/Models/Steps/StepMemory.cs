using Peft.Engine;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Steps;

/// <summary>
/// What a stack of blocks computes for one more token, recorded at the first and run again for each of the others: the same kernels on the same
/// memory, without the engine's operators, tensors and threads being called for each of them, which takes longer than the work itself where a model
/// is small. It belongs to a cache, and ends with it.
/// </summary>
/// <remarks>
/// A layer that has a kernel for one row records it; whatever else a family or an adapter computes leaves a gap, and a stack with a gap is computed
/// as ever. So is one whose recording doesn't give what was recorded.
/// </remarks>
internal sealed class StepMemory : IDisposable
{
    // A stack that changes all the time (two of them in one pass) isn't worth recording.
    private const int MostRecordings = 4;

    private readonly List<object> _given = [];
    private readonly Dictionary<RotaryTables, Engine.Steps.StepRotation> _rotations = new(ReferenceEqualityComparer.Instance);
    private StepRecording? _recording;
    private int _recordings;

    /// <summary>Positions in the cache before the pass.</summary>
    public long Length { get; private set; }

    /// <summary>Number of tokens that were computed by a recording.</summary>
    public long Replays { get; private set; }

    /// <summary>Whether stacks are computed as ever, for tests.</summary>
    public bool IsOff { get; set; }

    /// <summary>What of a pass differs from token to token, in the order in which every pass makes it: tables of positions, plans of attention.</summary>
    public void Give(object part) => _given.Add(part);

    /// <summary>Where a part stands among those given; -1 where it isn't among them.</summary>
    public int SlotOf(object part) => _given.FindIndex(other => ReferenceEquals(other, part));

    /// <summary>The part in a place.</summary>
    public T Given<T>(int slot) => (T)_given[slot];

    /// <summary>Rows of tables as kernels read them.</summary>
    public Engine.Steps.StepRotation RotationOf(int slot)
    {
        var tables = Given<RotaryTables>(slot);
        if (!_rotations.TryGetValue(tables, out var rotation))
        {
            var size = (int)tables.Cosine.size(-1);
            rotation = new Engine.Steps.StepRotation(CpuRows.Of(tables.Cosine, size), CpuRows.Of(tables.Sine, size), size, tables.IsInterleaved);
            _rotations.Add(tables, rotation);
        }

        return rotation;
    }

    /// <summary>Forgets what the finished pass was given.</summary>
    public void EndPass()
    {
        _given.Clear();
        _rotations.Clear();
    }

    /// <summary>The memory of a pass that can be recorded: one token where there are kernels for it, with a cache and nothing that looks into the pass.</summary>
    public static StepMemory? Of(Tensor x, ForwardContext context) => context is
    {
        Cache: { Length: > 0, Steps: { IsOff: false } steps }, Rows: 1, Length: 1, Tape: null, IsTraining: false, Packing: null, Prompt: null, InputObserver: null, Recorder: null,
        KeepsHiddenStates: false, TaskIds: null, Noise: null, ExpertRows: null, OnTokens: null, Activations.Count: 0, Selection: { Spans: null, RowNames: null },
    } && x.size(0) == 1 && StepKernels.Of(x) is { } kernels && kernels.Serves(x) && !is_grad_enabled()
        ? steps
        : null;

    /// <summary>Runs a stack: from the recording, or as ever while it is recorded.</summary>
    /// <param name="blocks">The blocks, which tell one stack from another.</param>
    /// <param name="x">[1, width].</param>
    /// <param name="context">The pass.</param>
    /// <param name="run">Computes the stack of an input as ever.</param>
    public StackOutput Run(IReadOnlyList<Module> blocks, Tensor x, ForwardContext context, Func<Tensor, ForwardContext, StackOutput> run)
    {
        Length = context.Cache!.Length;
        if (_recording is { } recording)
        {
            if (recording.Fits(blocks, x, context.Selection, _given.Count))
            {
                context.Cancellation.ThrowIfCancellationRequested();
                Replays++;
                return recording.Run(x);
            }

            Drop();
        }

        return _recordings++ < MostRecordings ? Record(blocks, x, context, run) : run(x, context);
    }

    /// <summary>Forgets the recording.</summary>
    public void Drop()
    {
        _recording?.Dispose();
        _recording = null;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Drop();
        EndPass();
        _recordings = 0;
    }

    /// <summary>All weights that a block computes with, an adapter's among them.</summary>
    private static IEnumerable<Parameter> Weights(Module block, ForwardContext context)
    {
        foreach (var (_, parameter, _) in block.NamedParameters())
        {
            var acting = parameter.Effective(context);
            yield return acting;
            if (acting.TiedTo is { } owner)
            {
                yield return owner;
            }

            foreach (var change in (parameter.Slot?.Plan(context) ?? SlotPlan.Empty).LowRank)
            {
                yield return change.A;
                yield return change.B;
                if (change.Inner is { } inner)
                {
                    yield return inner;
                }
            }
        }
    }

    private StackOutput Record(IReadOnlyList<Module> blocks, Tensor x, ForwardContext context, Func<Tensor, ForwardContext, StackOutput> run)
    {
        // Later tokens are written where this one is read, and x may be a tensor of the caller's.
        var own = x.clone();
        using var recorder = new StepRecorder(own, this, StepKernels.Of(x)!);
        var output = run(own, context with { Recorder = recorder });
        if (recorder.Finish(output) is not { } operations)
        {
            _recordings = MostRecordings;
            return output;
        }

        var recording = new StepRecording(blocks, [.. blocks.SelectMany(block => Weights(block, context)).Distinct()], context.Selection, _given.Count, operations);
        var kept = output with { Output = output.Output.clone(), Sides = output.SidesBy(static side => side.clone()) };
        if (recording.Gives(x, kept.Output))
        {
            _recording = recording;
            return kept;
        }

        // What was stored of the token on trial is stored again.
        recording.Dispose();
        kept.Output.Dispose();
        _recordings = MostRecordings;
        return run(x, context);
    }
}
