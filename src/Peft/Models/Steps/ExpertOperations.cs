using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Peft.Engine;
using Peft.Engine.Steps;
using Peft.Models.Layers;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Models.Steps;

/// <summary>One of the two products of experts.</summary>
/// <param name="Weight">The weights of all experts.</param>
/// <param name="Bias">[experts, outputs] or null.</param>
/// <param name="IsTransposed">Whether dense weights are [experts, inputs, outputs].</param>
internal readonly record struct ExpertProduct(Parameter Weight, Parameter? Bias, bool IsTransposed);

/// <summary>What a token's experts compute: residual + Σ w · down(gate(gateUp(x))).</summary>
/// <param name="Choice">How experts are chosen and weighed.</param>
/// <param name="Logits">The router's scores, [1, experts].</param>
/// <param name="GateUp">The first product.</param>
/// <param name="Gate">Stands between the products.</param>
/// <param name="Down">The second product.</param>
/// <param name="Residual">[1, width] or null.</param>
internal sealed record ExpertSource(RouterChoice Choice, Tensor Logits, ExpertProduct GateUp, ExpertGate Gate, ExpertProduct Down, Tensor? Residual);

/// <summary>What makes gate and up one.</summary>
internal abstract class ExpertGate
{
    /// <summary>Whether gate and up stand in turn; otherwise one behind the other.</summary>
    public virtual bool IsInterleaved => false;

    /// <summary>Applies it.</summary>
    /// <param name="gate">May be written over.</param>
    /// <param name="up">May be written over.</param>
    /// <param name="result">Takes what comes of them, in other memory.</param>
    public abstract void Apply(Span<float> gate, Span<float> up, Span<float> result);
}

/// <summary>act(gate) · up.</summary>
internal sealed class PlainExpertGate(ActivationForm form) : ExpertGate
{
    public override void Apply(Span<float> gate, Span<float> up, Span<float> result)
    {
        ActivationKernel.Apply(form, gate, result);
        TensorPrimitives.Multiply(result, up, result);
    }
}

/// <summary>(up + 1) · gate · sigmoid(alpha · gate), gate clamped from above and up on both sides (gpt-oss).</summary>
internal sealed class ClampedExpertGate(float alpha, float limit) : ExpertGate
{
    public override bool IsInterleaved => true;

    public override void Apply(Span<float> gate, Span<float> up, Span<float> result)
    {
        TensorPrimitives.Min(gate, limit, gate);
        TensorPrimitives.Clamp(up, -limit, limit, up);
        TensorPrimitives.Multiply(gate, alpha, result);
        TensorPrimitives.Sigmoid(result, result);
        TensorPrimitives.Multiply(result, gate, result);
        TensorPrimitives.MultiplyAdd(result, up, result, result);
    }
}

/// <summary>Chooses a token's experts and weighs them.</summary>
internal sealed unsafe class RouteOperation : StepOperation
{
    private readonly RouterChoice _choice;
    private readonly CpuRows _logits;
    private readonly int _count;

    /// <param name="choice">How.</param>
    /// <param name="logits">Scores, [1, experts].</param>
    public RouteOperation(RouterChoice choice, Tensor logits)
    {
        (_choice, _count) = (choice, (int)logits.NumberOfElements);
        _logits = CpuRows.Of(logits, _count);
        Experts = (int*)NativeMemory.AllocZeroed((nuint)choice.Chosen, sizeof(int));
        Shares = (float*)NativeMemory.AllocZeroed((nuint)choice.Chosen, sizeof(float));
    }

    /// <summary>How many are chosen.</summary>
    public int Chosen => _choice.Chosen;

    /// <summary>The chosen ones.</summary>
    public int* Experts { get; private set; }

    /// <summary>Their weights.</summary>
    public float* Shares { get; private set; }

    public override long Parts => 1;

    public override bool IsRepeated => true;

    public override int ScratchFloats => _count + RouterChoice.ScratchFloats(_count) + (2 * Chosen);

    public override void Run(long from, long to, float* scratch)
    {
        var room = scratch + _count;
        var chosen = room + RouterChoice.ScratchFloats(_count);
        Span<int> experts = new(chosen, Chosen);
        Span<float> weights = new(chosen + Chosen, Chosen);
        _choice.Choose(_logits.Read(0, _count, scratch), room, experts, weights);
        if (_logits.IsBFloat16)
        {
            CpuRows.Round(weights);
        }

        // At once: other threads may read them already.
        experts.CopyTo(new Span<int>(Experts, Chosen));
        weights.CopyTo(new Span<float>(Shares, Chosen));
    }

    protected override void Free()
    {
        NativeMemory.Free(Experts);
        NativeMemory.Free(Shares);
        Experts = null;
        Shares = null;
    }
}

/// <summary>The outputs of experts, one expert below the other: rounded to the output's type, and the biases added, as the engine's operators round after each.</summary>
internal sealed unsafe class ExpertSums
{
    private readonly CpuRows _bias;
    private readonly bool _hasBias;
    private readonly bool _isBFloat16;

    private ExpertSums(StepRows rows, Tensor? bias, bool isBFloat16)
    {
        (Rows, _hasBias, _isBFloat16) = (rows, bias is not null, isBFloat16);
        _bias = bias is null ? default : CpuRows.Of(bias, 1);
    }

    /// <summary>The weights.</summary>
    public StepRows Rows { get; }

    /// <summary>Those of a product; null where there is no kernel for its weights.</summary>
    /// <param name="product">The product.</param>
    /// <param name="type">The input's type, float32 or bfloat16.</param>
    public static ExpertSums? Of(ExpertProduct product, ScalarType type)
    {
        var (weight, bias, isTransposed) = product;
        var rows = weight.Packed is { } packed ? packed.Rows(type)
            : weight.Data.dtype != type || !CpuRows.Serves(weight.Data) || !Vector256.IsHardwareAccelerated ? null
            : isTransposed ? new DenseColumns(weight.Data)
            : new DenseRows(weight.Data);
        return rows is null || (bias is not null && !CpuRows.Serves(bias.Data)) ? null : new ExpertSums(rows, bias?.Data, type == ScalarType.BFloat16);
    }

    /// <summary>The outputs of some rows.</summary>
    /// <param name="first">The first row.</param>
    /// <param name="count">How many, at most <see cref="StepRows.Most"/>.</param>
    /// <param name="input">The input in order.</param>
    /// <param name="sums">Takes them.</param>
    /// <param name="scratch">Room for as many.</param>
    public Span<float> Form(long first, int count, float* input, float* sums, float* scratch)
    {
        Rows.Sum(first, count, input, sums);
        var own = Rounded(new Span<float>(sums, count));
        if (_hasBias)
        {
            TensorPrimitives.Add(own, _bias.ReadAt(first, count, scratch), own);
            Rounded(own);
        }

        return own;
    }

    /// <summary>Values in the output's type.</summary>
    public Span<float> Rounded(Span<float> values)
    {
        if (_isBFloat16)
        {
            CpuRows.Round(values);
        }

        return values;
    }
}

/// <summary>The first product of a token's experts, and what stands behind it.</summary>
internal sealed unsafe class ExpertInnerOperation : StepOperation
{
    private readonly RouteOperation _route;
    private readonly StepRows _rows;
    private readonly CpuRows _x;
    private readonly ExpertSums _sums;
    private readonly ExpertGate _gate;
    private readonly long _size;
    private byte* _inner;

    /// <param name="route">Chooses them.</param>
    /// <param name="x">[1, width].</param>
    /// <param name="sums">Gate and up.</param>
    /// <param name="gate">Stands behind them.</param>
    /// <param name="experts">Number of experts.</param>
    public ExpertInnerOperation(RouteOperation route, Tensor x, ExpertSums sums, ExpertGate gate, long experts)
    {
        (_route, _sums, _rows, _gate, _x) = (route, sums, sums.Rows, gate, CpuRows.Of(x, x.size(1)));
        _size = _rows.Count / experts / 2;
        _inner = (byte*)NativeMemory.AlignedAlloc((nuint)(route.Chosen * _size) * sizeof(float), 64);
    }

    /// <summary>What it gives, a row for each chosen expert.</summary>
    public CpuRows Inner => CpuRows.At(_inner, _size, _x.IsBFloat16);

    public override long Parts => _route.Chosen * _size;

    public override long Grain => Math.Max(1, _rows.Grain / 2);

    public override int ScratchFloats => Room + (4 * _rows.Most);

    private int Room => (_rows.ScratchFloats + 15) / 16 * 16;

    public override void Run(long from, long to, float* scratch)
    {
        var input = _rows.Arrange(_x, 0, scratch);
        var most = _rows.Most;
        var own = scratch + Room;
        while (from < to)
        {
            var (slot, start) = (from / _size, from % _size);
            var count = (int)Math.Min(Math.Min(most / 2, to - from), _size - start);
            Span<float> gate, up;
            var expert = _route.Experts[slot] * 2 * _size;
            if (_gate.IsInterleaved)
            {
                var pairs = _sums.Form(expert + (2 * start), 2 * count, input, own + (2 * most), own + (3 * most));
                gate = new Span<float>(own, count);
                up = new Span<float>(own + most, count);
                for (var i = 0; i < count; i++)
                {
                    (gate[i], up[i]) = (pairs[2 * i], pairs[(2 * i) + 1]);
                }
            }
            else
            {
                gate = _sums.Form(expert + start, count, input, own, own + (3 * most));
                up = _sums.Form(expert + _size + start, count, input, own + most, own + (3 * most));
            }

            var result = Inner.TargetAt(from, count, own + (2 * most));
            _gate.Apply(gate, up, result);
            Inner.WriteAt(from, result);
            from += count;
        }
    }

    protected override void Free()
    {
        NativeMemory.AlignedFree(_inner);
        _inner = null;
    }
}

/// <summary>The second product of a token's experts, weighed and added up.</summary>
internal sealed unsafe class ExpertSumOperation : StepOperation
{
    private readonly RouteOperation _route;
    private readonly StepRows _rows;
    private readonly ExpertInnerOperation _inner;
    private readonly ExpertSums _sums;
    private readonly CpuRows _residual;
    private readonly bool _hasResidual;
    private readonly CpuRows _y;
    private readonly long _width;

    /// <param name="route">Chooses them.</param>
    /// <param name="inner">What they computed so far.</param>
    /// <param name="sums">The second product.</param>
    /// <param name="residual">[1, width] or null.</param>
    /// <param name="y">[1, width].</param>
    public ExpertSumOperation(RouteOperation route, ExpertInnerOperation inner, ExpertSums sums, Tensor? residual, Tensor y)
    {
        (_route, _inner, _sums, _rows, _y, _width) = (route, inner, sums, sums.Rows, CpuRows.Of(y, 1), y.NumberOfElements);
        (_hasResidual, _residual) = (residual is not null, residual is null ? default : CpuRows.Of(residual, 1));
    }

    public override long Parts => _width;

    public override long Grain => Math.Max(1, _rows.Grain / _route.Chosen);

    public override int ScratchFloats => (_route.Chosen * Room) + (3 * _rows.Most);

    private int Room => (_rows.ScratchFloats + 15) / 16 * 16;

    public override void Run(long from, long to, float* scratch)
    {
        var (chosen, most) = (_route.Chosen, _rows.Most);
        var inputs = stackalloc nint[chosen];
        for (var slot = 0; slot < chosen; slot++)
        {
            inputs[slot] = (nint)_rows.Arrange(_inner.Inner, slot, scratch + (slot * Room));
        }

        for (var own = scratch + (chosen * Room); from < to; from += most)
        {
            var count = (int)Math.Min(most, to - from);
            Span<float> total = new(own, count);
            total.Clear();
            if (_hasResidual)
            {
                _residual.ReadAt(from, count, own).CopyTo(total);
            }

            for (var slot = 0; slot < chosen; slot++)
            {
                var part = _sums.Form((_route.Experts[slot] * _width) + from, count, (float*)inputs[slot], own + most, own + (2 * most));
                TensorPrimitives.Multiply(part, _route.Shares[slot], part);
                TensorPrimitives.Add(total, _sums.Rounded(part), total);
                _sums.Rounded(total);
            }

            total.CopyTo(_y.TargetAt(from, count, own));
            _y.WriteAt(from, total);
        }
    }
}
