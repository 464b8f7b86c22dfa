using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>A parameter's values as a tensor of the tape, for steps that run autograd over themselves.</summary>
internal static class ParameterTensor
{
    /// <summary>The values that act under this context; on a tape a view whose gradient goes to the parameter.</summary>
    public static Tensor Forward(Parameter parameter, ForwardContext context)
    {
        var own = parameter.Effective(context);
        var view = own.Data.alias();
        context.Tape?.Record(new GradientPiece(own), [], [view], own.IsTrained);
        return view;
    }

    /// <summary>Runs a function as a step: autograd over itself on a tape, plainly otherwise.</summary>
    /// <param name="function">Maps the inputs, then the parameters' values, to one output.</param>
    /// <param name="inputs">Tensors known to the tape.</param>
    /// <param name="parameters">Parameters that the function reads.</param>
    /// <param name="context">The forward pass.</param>
    public static Tensor Run(Func<IReadOnlyList<Tensor>, Tensor> function, IReadOnlyList<Tensor> inputs, IReadOnlyList<Parameter> parameters, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        Tensor[] all = [.. inputs, .. parameters.Select(parameter => Forward(parameter, context))];
        return (context.Tape is { } tape ? tape.Autograd(function, all, []) : function(all)).MoveToOuterDisposeScope();
    }

    private sealed class GradientPiece(Parameter parameter) : Piece
    {
        public override void Backward(PieceGradients gradients) => parameter.Gradient!.add_(gradients.Output());
    }
}
