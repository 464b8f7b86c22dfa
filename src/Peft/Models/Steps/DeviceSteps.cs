using System.Numerics;
using Peft.Engine;
using Peft.Engine.Cuda;
using Peft.Engine.Steps;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Steps;

/// <summary>Operations on a GPU's memory: one start of a kernel each.</summary>
/// <param name="device">Runs them.</param>
internal sealed class DeviceSteps(KernelDevice device) : IStepKernels
{
    private const int Warp = 32;
    private const int ProductThreads = 128;
    private const int ElementThreads = 256;

    // From here on a row of weights is work for more than a warp.
    private const long WideRow = 2048;

    public bool Serves(Tensor tensor) => KernelDevice.Serves(tensor);

    public nint Address(Tensor tensor) => device.Address(tensor);

    public IReadOnlyList<StepOperation>? Product(Tensor x, Tensor y, LinearSource product)
    {
        var (weight, bias, residual, members) = product;
        if ((bias is not null && (bias.dtype != y.dtype || !Serves(bias))) || residual?.dtype is { } type && type != y.dtype)
        {
            return null;
        }

        var target = Target(y, bias, residual);
        if (weight is null)
        {
            return Packed(x, target, members);
        }

        if (weight.dtype != x.dtype)
        {
            return null;
        }

        if (Serves(weight))
        {
            return [Rows(x, weight, target)];
        }

        using var rows = weight.t();
        return Serves(rows)
            ? [new LaunchOperation<KernelArguments.ColumnProduct>(
                device, "column_product", x.dtype, (KernelDevice.Blocks(rows.size(1), Warp), ElementThreads),
                new KernelArguments.ColumnProduct { X = Address(x), Weight = Address(rows), Target = target, Height = rows.size(0), Columns = rows.size(1) })]
            : null;
    }

    public IReadOnlyList<StepOperation>? LowRank(Tensor x, Tensor down, Tensor inner, Tensor y, IReadOnlyList<(Tensor B, LowRankPlace Place)> changes)
    {
        if (down.dtype != x.dtype || !Serves(down) || changes.Any(change => change.B.dtype != x.dtype || !Serves(change.B)))
        {
            return null;
        }

        var columns = y.NumberOfElements;
        return [Rows(x, down, Target(inner, null, null)), .. changes.Chunk(KernelArguments.MostTerms).Select(some =>
            new LaunchOperation<KernelArguments.LowRank>(device, "low_rank", x.dtype, (KernelDevice.Blocks(columns, ElementThreads), ElementThreads), Terms(inner, y, some)))];
    }

    public IReadOnlyList<StepOperation>? Attention(IStepAttention pass, StepHeads sizes, Tensor queries, (Tensor Keys, Tensor Values)? stored, Tensor output)
    {
        if (pass.Sinks is not null || sizes.KeySize > KernelArguments.MostHeadSize || sizes.ValueSize > KernelArguments.MostHeadSize || (pass.Bias is { } bias && (bias.dtype != queries.dtype || !Serves(bias))))
        {
            return null;
        }

        var turned = empty([sizes.Heads * (long)sizes.KeySize], queries.dtype, queries.device).DetachFromDisposeScope();
        var rotate = new KernelArguments.Rotate
        {
            Queries = Address(queries), Turned = Address(turned), Heads = sizes.Heads, KeySize = sizes.KeySize, ValueSize = sizes.ValueSize, Scale = sizes.Scale,
        };
        if (stored is var (keys, values))
        {
            (rotate.Keys, rotate.Values) = (Address(keys), Address(values));
        }

        var attend = new KernelArguments.Attend
        {
            Queries = Address(turned), Output = Address(output), Group = sizes.Heads / sizes.KeyValueHeads, KeySize = sizes.KeySize, ValueSize = sizes.ValueSize,
        };
        return
        [
            new OwningOperation(new LaunchedRotation(device, queries.dtype, pass, (sizes.Heads + (stored is null ? 0 : sizes.KeyValueHeads), ProductThreads), rotate), turned),
            new LaunchedAttention(device, queries.dtype, pass, (sizes.Heads, ElementThreads), attend),
        ];
    }

    public IReadOnlyList<StepOperation>? Experts(Tensor x, Tensor y, ExpertSource source) => null;

    public StepOperation? SigmoidGate(Tensor x, Tensor gate, Tensor y) => null;

    public StepOperation? Activation(Tensor x, Tensor y, ActivationForm form, bool isGated) => new LaunchOperation<KernelArguments.Activation>(
        device, "activation_row", x.dtype, (KernelDevice.Blocks(y.NumberOfElements, ElementThreads), ElementThreads),
        new KernelArguments.Activation { X = Address(x), Y = Address(y), Width = y.NumberOfElements, Form = (int)form, IsGated = isGated ? 1 : 0 });

    public StepOperation? Copy(IReadOnlyList<CopiedStretch> stretches)
    {
        var size = stretches[0].From.ElementSize;
        var table = stretches.SelectMany(stretch => (long[])
            [Address(stretch.From) + (nint)(stretch.FromElement * size), Address(stretch.To) + (nint)(stretch.ToElement * size), stretch.Count * size]).ToArray();
        var stored = tensor(table, ScalarType.Int64, stretches[0].From.device).DetachFromDisposeScope();
        return new OwningOperation(
            new LaunchOperation<KernelArguments.Copy>(device, "copy_stretches", stretches[0].From.dtype, (stretches.Count, ProductThreads), new KernelArguments.Copy { Stretches = Address(stored) }),
            stored);
    }

    public StepOperation? RmsNorm(Tensor x, Tensor weight, Tensor y, int width, double epsilon) => new LaunchOperation<KernelArguments.Norm>(
        device, "rms_norm", x.dtype, (x.NumberOfElements / width, LayerLaunches.NormThreads(width, x)),
        new KernelArguments.Norm { X = Address(x), Weight = Address(weight), Y = Address(y), Width = width, Epsilon = (float)epsilon });

    public StepOperation? LayerNorm(Tensor x, Tensor weight, Tensor? bias, Tensor y, int width, double epsilon) => new LaunchOperation<KernelArguments.LayerNorm>(
        device, "layer_norm", x.dtype, (x.NumberOfElements / width, LayerNormThreads(width)),
        new KernelArguments.LayerNorm { X = Address(x), Weight = Address(weight), Bias = AddressOf(bias), Y = Address(y), Width = width, Epsilon = (float)epsilon });

    public StepOperation? Sum(Tensor? left, Tensor right, Tensor y, float scale) => new LaunchOperation<KernelArguments.ScaledSum>(
        device, "add_scaled", y.dtype, (KernelDevice.Blocks(y.NumberOfElements, ElementThreads), ElementThreads),
        new KernelArguments.ScaledSum { Left = AddressOf(left), Right = Address(right), Y = Address(y), Count = y.NumberOfElements, Scale = scale });

    // A power of two, as many as there is work for.
    private static int LayerNormThreads(int width) => (int)Math.Clamp(BitOperations.RoundUpToPowerOf2((uint)width) / 4, Warp, 1024);

    private nint AddressOf(Tensor? tensor) => tensor is null ? 0 : Address(tensor);

    private KernelArguments.ProductTarget Target(Tensor y, Tensor? bias, Tensor? residual) => new() { Y = Address(y), Bias = AddressOf(bias), Residual = AddressOf(residual) };

    private LaunchOperation<KernelArguments.RowProduct> Rows(Tensor x, Tensor weight, KernelArguments.ProductTarget target)
    {
        var (rows, width) = (weight.size(0), weight.size(1));
        var lanes = width >= WideRow ? ProductThreads : Warp;
        return new LaunchOperation<KernelArguments.RowProduct>(
            device, "row_product", x.dtype, (KernelDevice.Blocks(rows, ProductThreads / lanes), ProductThreads),
            new KernelArguments.RowProduct { X = Address(x), Weight = Address(weight), Target = target, Rows = rows, Width = width, Lanes = lanes });
    }

    private KernelArguments.LowRank Terms(Tensor inner, Tensor y, IReadOnlyList<(Tensor B, LowRankPlace Place)> changes)
    {
        var arguments = new KernelArguments.LowRank { Inner = Address(inner), Y = Address(y), Columns = y.NumberOfElements, Count = changes.Count };
        for (var i = 0; i < changes.Count; i++)
        {
            var (b, place) = changes[i];
            arguments.Terms[i] = new KernelArguments.LowRankTerm { B = Address(b), Column = place.Column, Width = b.size(0), RankStart = place.RankStart, Rank = b.size(1), Scale = place.Scale };
        }

        return arguments;
    }

    private List<StepOperation>? Packed(Tensor x, KernelArguments.ProductTarget target, LinearMember[] members)
    {
        var operations = new List<StepOperation>();
        long column = 0;
        foreach (var member in members)
        {
            var start = (nint)(column * x.ElementSize);
            var own = new KernelArguments.ProductTarget { Y = target.Y + start, Bias = target.Bias == 0 ? 0 : target.Bias + start, Residual = target.Residual == 0 ? 0 : target.Residual + start };
            if (member.Weight.Packed!.Launch(device, x, own) is not { } operation)
            {
                return null;
            }

            operations.Add(operation);
            column += member.Width;
        }

        return operations;
    }
}
