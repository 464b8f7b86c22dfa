using Peft.Engine;
using Peft.Engine.Steps;
using Peft.Models.Layers;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Models.Steps;

/// <summary>Operations on a processor's memory, by kernels of our own.</summary>
internal sealed class ProcessorSteps : IStepKernels
{
    /// <summary>There is one.</summary>
    public static ProcessorSteps Instance { get; } = new();

    public bool Serves(Tensor tensor) => CpuRows.Serves(tensor);

    public nint Address(Tensor tensor) => TensorMemory.Address(tensor);

    public IReadOnlyList<StepOperation>? Product(Tensor x, Tensor y, LinearSource product)
    {
        var (weight, bias, residual, members) = product;
        if (bias is not null && !CpuRows.Serves(bias))
        {
            return null;
        }

        var output = ProductOutput.Of(y, bias, residual);
        if (weight is null)
        {
            return Packed(members, x, output);
        }

        if (RowProduct.Serves(x, weight))
        {
            return [new ProductOperation(new DenseRows(weight), x, output)];
        }

        if (!ColumnProduct.Serves(x, weight))
        {
            return null;
        }

        using var rows = weight.t();
        var sums = new ColumnSumsOperation(x, rows);
        return [sums, new ColumnEndOperation(sums, output)];
    }

    public IReadOnlyList<StepOperation>? LowRank(Tensor x, Tensor down, Tensor inner, Tensor y, IReadOnlyList<(Tensor B, LowRankPlace Place)> changes) =>
        RowProduct.Serves(x, down) && changes.All(static change => CpuRows.Serves(change.B))
            ? [
                new ProductOperation(new DenseRows(down), x, ProductOutput.Of(inner, null, null)),
                .. changes.Select(change => new LowRankOperation(inner, y, change.B, change.Place.Column, change.Place.RankStart, change.Place.Scale)),
            ]
            : null;

    public IReadOnlyList<StepOperation>? Attention(IStepAttention pass, StepHeads sizes, Tensor queries, (Tensor Keys, Tensor Values)? stored, Tensor output)
    {
        var rotate = new RotateOperation(pass, sizes, queries, stored);
        return [rotate, new AttendOperation(pass, sizes, rotate.Turned, output)];
    }

    public IReadOnlyList<StepOperation>? Experts(Tensor x, Tensor y, ExpertSource source)
    {
        if (ExpertSums.Of(source.GateUp, x.dtype) is not { } gateUp || ExpertSums.Of(source.Down, x.dtype) is not { } down)
        {
            return null;
        }

        var route = new RouteOperation(source.Choice, source.Logits);
        var inner = new ExpertInnerOperation(route, x, gateUp, source.Gate, source.Logits.size(1));
        return [route, inner, new ExpertSumOperation(route, inner, down, source.Residual, y)];
    }

    public StepOperation? Activation(Tensor x, Tensor y, ActivationForm form, bool isGated) => new ActivationOperation(x, y, form, isGated);

    public StepOperation? SigmoidGate(Tensor x, Tensor gate, Tensor y) => new SigmoidGateOperation(x, gate, y);

    public StepOperation? Copy(IReadOnlyList<CopiedStretch> stretches)
    {
        var copy = new CopyOperation();
        foreach (var (from, fromElement, to, toElement, count) in stretches)
        {
            copy.Add(from, fromElement, to, toElement, count);
        }

        return copy;
    }

    public StepOperation? RmsNorm(Tensor x, Tensor weight, Tensor y, int width, double epsilon) => new RmsNormOperation(x, weight, y, width, epsilon);

    public StepOperation? LayerNorm(Tensor x, Tensor weight, Tensor? bias, Tensor y, int width, double epsilon) => new LayerNormOperation(x, weight, bias, y, width, epsilon);

    public StepOperation? Sum(Tensor? left, Tensor right, Tensor y, float scale) => left is null ? new ScalingOperation(right, y, scale) : new SumOperation(left, right, y, scale);

    private static IReadOnlyList<StepOperation>? Packed(LinearMember[] members, Tensor x, ProductOutput output)
    {
        var operations = new List<StepOperation>();
        long column = 0;
        foreach (var member in members)
        {
            if (member.Weight.Packed!.Rows(x.dtype) is not { } rows)
            {
                return null;
            }

            operations.Add(new ProductOperation(rows, x, output.From(column)));
            column += member.Width;
        }

        return [operations.Count == 1 ? operations[0] : new JoinedOperation(operations)];
    }
}
