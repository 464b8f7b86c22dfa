using Peft.Adapters.Methods.Lora.DataStarts;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Training.Objectives;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>The first rows of a data set, for an adapter whose start data decide (EVA, CorDA, LoRA-GA): run through the base in batches, without dropout.</summary>
public sealed class StartRows : IStartData
{
    /// <summary>Rows that are used at most: what CorDA's authors take.</summary>
    public const int Most = 256;

    private readonly PeftModel _model;
    private readonly ITrainingData _data;
    private readonly IObjective _objective;
    private readonly int[][] _batches;
    private readonly ForwardContext _context;

    /// <summary>Takes the rows.</summary>
    /// <param name="model">The model, held by the caller.</param>
    /// <param name="data">The rows; the first <see cref="Most"/> are used.</param>
    /// <param name="options">Batch size, objective and whether blocks run again in the backward pass.</param>
    /// <param name="cancellation">Looked at between layers.</param>
    public StartRows(PeftModel model, ITrainingData data, TrainingOptions options, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(options);
        data.RefuseUnfit(model);
        _model = model;
        _data = data;
        _objective = ObjectiveRegistry.Create(options);
        _batches = [.. Enumerable.Range(0, Math.Min(data.Count, Most)).Chunk(options.BatchSize)];
        _context = new ForwardContext { Cancellation = cancellation, Checkpointing = options.GradientCheckpointing };
    }

    /// <inheritdoc/>
    public int Batches => _batches.Length;

    /// <inheritdoc/>
    public void Observe(int batch, Action<Module, Tensor> seen, bool onlyLearnt)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        using var rows = _data.Collate(_batches[batch], _model.Device);
        var counted = Counted(rows, onlyLearnt);
        Loss(rows, _context with
        {
            InputObserver = (module, x) =>
            {
                // An output layer sees the positions that are learnt alone; a decoder beside an encoder has rows of its own.
                var inputs = x.is_floating_point() && x.dim() == 2 && counted is not null && x.size(0) == rows.InputIds.numel() ? x.index_select(0, counted) : x;
                if (inputs.is_floating_point())
                {
                    seen(module, inputs.flatten(0, (int)inputs.dim() - 2));
                }
            },
        });
    }

    /// <inheritdoc/>
    public void AddGradients(int batch, IReadOnlyList<Parameter> weights)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        using var rows = _data.Collate(_batches[batch], _model.Device);
        using var tape = new Tape();
        tape.Backward(Loss(rows, _context with { Tape = tape }), null, _context.Cancellation);
    }

    private Tensor Loss(TrainingBatch rows, ForwardContext context)
    {
        using var metrics = new MetricSums();
        return _objective.Loss(new ObjectivePass(_objective, _model, rows, null, context with { Selection = AdapterSelection.Base }, null, metrics));
    }

    /// <summary>Indices of the tokens that count among all of a batch; null for all.</summary>
    private static Tensor? Counted(TrainingBatch rows, bool onlyLearnt)
    {
        var mask = rows.AttentionMask?.ne(0);
        if (onlyLearnt && rows.Labels.shape.SequenceEqual(rows.InputIds.shape))
        {
            var learnt = rows.Labels.ne(-100);
            mask = mask is null ? learnt : mask.logical_and(learnt);
        }

        return mask?.flatten().nonzero().flatten();
    }
}
