using System.Globalization;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>A table of vectors, one a token.</summary>
public sealed class Embedding : Module, IAdaptable
{
    private readonly long? _paddingIndex;
    private readonly double _scale;

    /// <summary>Makes a table without weights.</summary>
    /// <param name="count">Number of tokens.</param>
    /// <param name="size">Width of a vector.</param>
    /// <param name="paddingIndex">A token whose vector is not trained; null for none.</param>
    /// <param name="className">transformers' class name.</param>
    /// <param name="scale">Multiplies vectors as they are looked up (Gemma).</param>
    public Embedding(long count, long size, long? paddingIndex = null, string className = "Embedding", double scale = 1)
        : base(className)
    {
        Size = size;
        _paddingIndex = paddingIndex < 0 ? paddingIndex + count : paddingIndex;
        _scale = scale;
        Weight = AddParameter("weight", [count, size]);
    }

    /// <summary>Number of tokens.</summary>
    public long Count => Weight.Shape[0];

    /// <summary>Width of a vector.</summary>
    public long Size { get; }

    /// <summary>[tokens, width].</summary>
    public Parameter Weight { get; }

    /// <inheritdoc/>
    Parameter? IAdaptable.Bias => null;

    /// <inheritdoc/>
    long IAdaptable.Inputs => Count;

    /// <inheritdoc/>
    long IAdaptable.Outputs => Size;

    /// <inheritdoc/>
    public override string Details => _paddingIndex is { } index
        ? string.Create(CultureInfo.InvariantCulture, $"{Count}, {Size}, padding_idx={index}")
        : string.Create(CultureInfo.InvariantCulture, $"{Count}, {Size}");

    /// <summary>Looks tokens up.</summary>
    /// <param name="ids">int64, any shape of n tokens.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[n, width].</returns>
    /// <exception cref="PeftException"><c>TokenOutOfRange</c>.</exception>
    public Tensor Forward(Tensor ids, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var flat = ids.reshape(-1);
        context.InputObserver?.Invoke(this, flat);
        var plan = Weight.Slot?.Plan(context) ?? SlotPlan.Empty;
        if (!plan.NeedsForward)
        {
            return Run(flat, plan.LowRank, context).MoveToOuterDisposeScope();
        }

        context.Tape?.AddRoot(flat);
        return Weight.Slot!.Forward(flat, context, (tokens, inner) => Run(tokens, [], inner)).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor Apply(Tensor x, Tensor weight, Tensor? bias)
    {
        var ids = x.flatten();
        var rows = weight.index_select(0, ids);
        if (_paddingIndex is { } index)
        {
            // The vector of padding isn't trained.
            rows = where(ids.eq(index).unsqueeze(-1), rows.detach(), rows);
        }

        return Scaled(rows).view([.. x.shape, weight.shape[1]]);
    }

    /// <inheritdoc/>
    public Tensor FromMatrix(Tensor matrix) => matrix.t();

    /// <inheritdoc/>
    public Tensor ToMatrix(Tensor weight) => weight.t();

    /// <summary>Vectors as the table gives them: scaled where it scales.</summary>
    internal Tensor Scaled(Tensor rows) => _scale == 1 ? rows : rows * Factor(rows.dtype);

    private Tensor Run(Tensor ids, IReadOnlyList<LowRank> changes, ForwardContext context)
    {
        CheckRange(ids, context);
        var weight = Weight.Effective(context);
        var y = weight.Data.index_select(0, ids);
        foreach (var change in changes)
        {
            y.addmm_(Rows(change, ids, y.dtype), LinearProduct.Cast(change.B.Data, y.dtype).t(), 1, (float)change.Scale);
        }

        y = _scale == 1 ? y : y.mul_(Factor(y.dtype));
        if (context.Tape is { } tape)
        {
            var trains = weight.IsTrained || changes.Any(static change => change.A.IsTrained || change.B.IsTrained);
            tape.Record(new EmbeddingPiece(ids, weight, _paddingIndex, changes, Factor(y.dtype)), [], [y], trains);
        }

        return y;
    }

    // transformers keeps the factor in the weights' type.
    private double Factor(ScalarType type) => type == ScalarType.Float32 || _scale == 1 ? _scale : tensor(_scale).to(type).to(ScalarType.Float64).item<double>();

    // A is [rank, tokens]: the columns of the tokens, as rows.
    private static Tensor Rows(LowRank change, Tensor ids, ScalarType type) => LinearProduct.Cast(change.A.Data.index_select(1, ids).t(), type);

    private void CheckRange(Tensor ids, ForwardContext context)
    {
        // A bad id on a GPU would poison the process. One token a row was chosen by the model itself, and waiting for it would cost each token time.
        var isElsewhere = ids.device_type != DeviceType.CPU;
        if (isElsewhere && context is { Length: 1, Cache.Length: > 0 })
        {
            return;
        }

        using var here = isElsewhere ? ids.cpu() : ids.alias();
        var count = Count;
        foreach (var id in here.data<long>())
        {
            if (id < 0 || id >= count)
            {
                throw new PeftException("TokenOutOfRange", $"Token {id} does not exist: '{Path}' has {count} tokens.")
                {
                    Target = id,
                    RecommendedAction = "Use the tokenizer that belongs to this model.",
                };
            }
        }
    }

    private sealed class EmbeddingPiece : Piece
    {
        private readonly Tensor _ids;
        private readonly Parameter _weight;
        private readonly long? _paddingIndex;
        private readonly IReadOnlyList<LowRank> _changes;
        private readonly double _scale;

        public EmbeddingPiece(Tensor ids, Parameter weight, long? paddingIndex, IReadOnlyList<LowRank> changes, double scale)
        {
            _ids = Keep(ids);
            _weight = weight;
            _paddingIndex = paddingIndex;
            _changes = changes;
            _scale = scale;
        }

        public override void Backward(PieceGradients gradients)
        {
            var g = _scale == 1 ? gradients.Output() : gradients.Output().mul(_scale);
            var rows = _paddingIndex is { } index ? g.masked_fill(_ids.eq(index).unsqueeze(-1), 0) : g;
            if (_weight.Gradient is { } weightGradient)
            {
                weightGradient.index_add_(0, _ids, LinearProduct.Cast(rows, weightGradient.dtype), 1);
            }

            foreach (var change in _changes)
            {
                change.B.Gradient?.add_(g.t().mm(Rows(change, _ids, g.dtype)), change.Scale);
                change.A.Gradient?.index_add_(
                    1, _ids, rows.mm(LinearProduct.Cast(change.B.Data, g.dtype)).t().to(change.A.Gradient.dtype), change.Scale);
            }
        }
    }
}
