using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// The rows of a pass as a recurrence or a convolution reads them: each example of a packed row is a row of its own, so that nothing is
/// remembered from one to the next, and padding gives zeros. Made once for all layers.
/// </summary>
internal sealed class SequenceLayout
{
    private readonly Tensor? _from;
    private readonly Tensor? _to;
    private readonly Tensor? _tokens;

    private SequenceLayout(long rows, long length, Tensor? from, Tensor? to, Tensor? tokens)
    {
        Rows = rows;
        Length = length;
        _from = from;
        _to = to;
        _tokens = tokens;
    }

    /// <summary>Number of rows.</summary>
    public long Rows { get; }

    /// <summary>Positions of a row.</summary>
    public long Length { get; }

    /// <summary>Makes the layout of a pass; its tensors live as long as the pass's tape, or without one in the caller's dispose scope.</summary>
    /// <param name="context">The forward pass.</param>
    /// <param name="device">Device of the hidden states.</param>
    public static SequenceLayout For(ForwardContext context, Device device)
    {
        using var scope = NewDisposeScope();
        var mask = context.AttentionMask is { } all
            ? all.narrow(1, all.size(1) - context.Length, context.Length).to(device).reshape(-1, 1).to(ScalarType.Float32)
            : null;
        if (context.Packing is null)
        {
            return new SequenceLayout(context.Rows, context.Length, null, null, Kept(mask?.view(context.Rows, context.Length, 1), context));
        }

        var documents = Documents(context.Packing, context.Length);
        var longest = documents.Max(static document => document.Length);
        var from = new long[documents.Count * longest];
        var inside = new float[from.Length];
        var to = new long[context.Rows * context.Length];
        for (var document = 0; document < documents.Count; document++)
        {
            for (var i = 0; i < documents[document].Length; i++)
            {
                var place = (document * longest) + i;
                from[place] = documents[document].Start + i;
                inside[place] = 1;
                to[documents[document].Start + i] = place;
            }
        }

        var index = tensor(from, ScalarType.Int64, device);
        var tokens = tensor(inside, ScalarType.Float32, device).unsqueeze(1);
        tokens = mask is null ? tokens : tokens.mul(mask.index_select(0, index));
        return new SequenceLayout(
            documents.Count, longest, Kept(index, context), Kept(tensor(to, ScalarType.Int64, device), context), Kept(tokens.view(documents.Count, longest, 1), context));
    }

    /// <summary>Positions by row, with zeros where there is no token.</summary>
    /// <param name="x">[rows · length of the pass, width].</param>
    /// <returns>[<see cref="Rows"/>, <see cref="Length"/>, width].</returns>
    public Tensor Gather(Tensor x)
    {
        var rows = (_from is null ? x : x.index_select(0, _from)).view(Rows, Length, -1);
        return Masked(rows);
    }

    /// <summary>Zeros where there is no token, [<see cref="Rows"/>, <see cref="Length"/>, width].</summary>
    public Tensor Masked(Tensor rows) => _tokens is null ? rows : rows.mul(_tokens.to(rows.dtype));

    /// <summary>Undoes <see cref="Gather"/>.</summary>
    public Tensor Scatter(Tensor rows)
    {
        var flat = rows.reshape(Rows * Length, -1);
        return _to is null ? flat : flat.index_select(0, _to);
    }

    private static Tensor? Kept(Tensor? tensor, ForwardContext context)
    {
        if (tensor is not null)
        {
            tensor.MoveToOuterDisposeScope();
            context.Tape?.Share(tensor);
        }

        return tensor;
    }

    /// <summary>First position, among all rows', and length of every example; what follows a row's last one is one more.</summary>
    private static List<(long Start, int Length)> Documents(IReadOnlyList<IReadOnlyList<int>> packing, long length)
    {
        List<(long, int)> documents = [];
        for (var row = 0; row < packing.Count; row++)
        {
            long at = 0;
            foreach (var size in packing[row].Append((int)length))
            {
                var own = (int)Math.Min(size, length - at);
                if (own > 0)
                {
                    documents.Add(((row * length) + at, own));
                    at += own;
                }
            }
        }

        return documents;
    }
}
