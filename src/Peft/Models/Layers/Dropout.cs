using System.Globalization;
using Peft.Engine;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>Drops elements in training and scales up what stays (Srivastava et al. 2014); a model's own dropout acts only where training asks for it.</summary>
public sealed class Dropout : Module
{
    private readonly double _probability;

    /// <summary>Makes the layer.</summary>
    /// <param name="probability">Probability with which an element is dropped.</param>
    /// <param name="printsWhole">Whether it is printed without digits behind the point (MPT's configuration holds whole numbers).</param>
    public Dropout(double probability, bool printsWhole = false)
    {
        _probability = probability;
        Details = $"p={(printsWhole ? probability.ToString("0", CultureInfo.InvariantCulture) : ModuleText.Number(probability))}, inplace=False";
    }

    /// <inheritdoc/>
    public override string Details { get; }

    /// <summary>Whether it drops anything when a model is trained.</summary>
    internal bool IsUsed => _probability > 0;

    /// <summary>Whether anything is dropped in a pass.</summary>
    public bool Acts(ForwardContext context) => _probability > 0 && context.IsTraining;

    /// <summary>Runs the layer.</summary>
    /// <param name="x">Any shape.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>Of the same shape; the input itself where nothing is dropped.</returns>
    public Tensor Forward(Tensor x, ForwardContext context)
    {
        if (!Acts(context))
        {
            return x;
        }

        var mask = RandomDraws.Kept(x, 1 - _probability, context.Generator);
        var y = DropoutKernel.Apply(x, mask, 1 / (1 - _probability));
        context.Tape?.Record(new DropoutPiece(mask, _probability), [x], [y], trains: false);
        return y;
    }

    /// <summary>residual + dropout(projection(x)), in one product where nothing is dropped.</summary>
    /// <param name="projection">The layer whose output is dropped.</param>
    /// <param name="x">[rows, inputs].</param>
    /// <param name="residual">[rows, outputs].</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows, outputs].</returns>
    public Tensor AddProjection(Linear projection, Tensor x, Tensor residual, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(projection);
        return Acts(context)
            ? ResidualSum.Forward(residual, Forward(projection.Forward(x, context), context), context)
            : projection.Forward(x, context, residual);
    }

    private sealed class DropoutPiece : Piece
    {
        private readonly Tensor _mask;
        private readonly double _probability;

        public DropoutPiece(Tensor mask, double probability)
        {
            _mask = Keep(mask);
            _probability = probability;
        }

        public override void Backward(PieceGradients gradients) => gradients.Add(0, DropoutKernel.Apply(gradients.Output(), _mask, 1 / (1 - _probability)));
    }
}
