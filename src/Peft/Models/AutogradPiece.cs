using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>Autograd over one function alone.</summary>
internal sealed class AutogradPiece : Piece
{
    private readonly Tensor[] _leaves;
    private readonly int[] _leafInputs;
    private readonly Parameter[] _trained;
    private readonly Tensor _output;

    private AutogradPiece(Tensor[] leaves, int[] leafInputs, Parameter[] trained, Tensor output)
    {
        _leaves = [.. leaves.Select(KeepOwn)];
        _leafInputs = leafInputs;
        _trained = trained;
        _output = KeepOwn(output);
    }

    public static AutogradPiece Run(Func<IReadOnlyList<Tensor>, Tensor> function, IReadOnlyList<Tensor> inputs, bool[] needs, Parameter[] trained)
    {
        using var scope = NewDisposeScope();
        using var grad = enable_grad();
        var arguments = inputs.ToArray();
        var asked = Enumerable.Range(0, inputs.Count).Where(i => needs[i]).ToArray();
        foreach (var i in asked)
        {
            arguments[i] = inputs[i].detach().requires_grad_(true);
        }

        return new AutogradPiece([.. asked.Select(i => arguments[i])], asked, trained, function(arguments));
    }

    public override bool KeepsOutputs => true;

    public Tensor DetachedOutput() => _output.detach();

    public override void Backward(PieceGradients gradients)
    {
        // An output that nothing trained reached has no gradient to give.
        if (!_output.requires_grad)
        {
            return;
        }

        foreach (var (index, gradient) in Gradients(_output, gradients.Output(), [.. _leaves, .. _trained.Select(static parameter => parameter.Data)]))
        {
            if (index < _leaves.Length)
            {
                gradients.Add(_leafInputs[index], gradient);
            }
            else
            {
                _trained[index - _leaves.Length].Gradient!.add_(gradient);
            }
        }
    }

    /// <summary>Adds the gradients of parameters that a tensor was formed of.</summary>
    /// <param name="of">The tensor; autograd knows how it was formed.</param>
    /// <param name="gradient">Its gradient.</param>
    /// <param name="trained">The parameters.</param>
    public static void Add(Tensor of, Tensor gradient, IReadOnlyList<Parameter> trained)
    {
        foreach (var (index, own) in Gradients(of, gradient, [.. trained.Select(static parameter => parameter.Data)]))
        {
            trained[index].Gradient!.add_(own);
        }
    }

    /// <summary>
    /// The gradients go into grad and are taken out again: of the two ways to ask for them this one is guarded in TorchSharp, so that a mistake or a
    /// lack of memory is an exception instead of the end of the process.
    /// </summary>
    private static IEnumerable<(int Index, Tensor Gradient)> Gradients(Tensor output, Tensor gradient, Tensor[] targets)
    {
        autograd.backward([output], [gradient], inputs: targets);
        for (var i = 0; i < targets.Length; i++)
        {
            if (targets[i].grad is { IsInvalid: false } own)
            {
                targets[i].grad = null;
                yield return (i, own);
            }
        }
    }
}
