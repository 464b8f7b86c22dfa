using System.Collections.Frozen;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>
/// Everything one forward pass needs beside the hidden states: who acts, whether it is recorded, the batch's geometry, the cache.
/// Immutable, except that the tape and the cache it points to fill up. Nothing of it lives in a layer's fields.
/// </summary>
public sealed record ForwardContext
{
    /// <summary>Which adapters act.</summary>
    public AdapterSelection Selection { get; init; } = AdapterSelection.Base;

    /// <summary>Records the pieces of a pass that will run backward; null when only outputs are wanted.</summary>
    public Tape? Tape { get; init; }

    /// <summary>Whether dropout acts.</summary>
    public bool IsTraining { get; init; }

    /// <summary>Number of rows of the batch. Hidden states between layers are [Rows · Length, width].</summary>
    public long Rows { get; init; }

    /// <summary>Number of positions a row has in this pass.</summary>
    public long Length { get; init; }

    /// <summary>Position of every token, int64 [Rows, Length]; null for 0, 1, … from the cache's length on.</summary>
    public Tensor? Positions { get; init; }

    /// <summary>1 for tokens, 0 for padding, int64 [Rows, cached + Length]; null when nothing is padded.</summary>
    public Tensor? AttentionMask { get; init; }

    /// <summary>
    /// In a packed row, the lengths of the examples that stand in each row one after another: attention stays inside each (block-diagonal).
    /// Null when a row is one example.
    /// </summary>
    public IReadOnlyList<IReadOnlyList<int>>? Packing { get; init; }

    /// <summary>What layers remember of earlier positions; null when the whole row is in this pass.</summary>
    public ModelCache? Cache { get; init; }

    /// <summary>Source of dropout masks; null for the global generator.</summary>
    public Generator? Generator { get; init; }

    /// <summary>Sources of the dropout masks of adapters that share the pass, each on its own stretch (<see cref="AdapterSelection.Spans"/>), by their names.</summary>
    public IReadOnlyDictionary<string, Generator> Generators { get; init; } = FrozenDictionary<string, Generator>.Empty;

    /// <summary>Whether blocks keep their input alone and run again in the backward pass: less memory, a third more work.</summary>
    public bool Checkpointing { get; init; }

    /// <summary>
    /// Type that products of weights, factors, attention and convolutions are formed in, values between them staying in their own: float32 of bfloat16 values, where the processor
    /// is faster so, or bfloat16 of float32 ones, as PyTorch's autocast does. Null for the values' own.
    /// </summary>
    public ScalarType? ProductType { get; init; }

    /// <summary>Seen between pieces, in both directions.</summary>
    public CancellationToken Cancellation { get; init; }

    /// <summary>Sees the input of every adaptable layer (EVA, CorDA and other data-driven initialisations); null usually.</summary>
    public Action<Module, Tensor>? InputObserver { get; init; }

    /// <summary>What a prompt method puts in front of every row; null for nothing.</summary>
    public VirtualPrompt? Prompt { get; init; }

    /// <summary>Which of its tasks each row is, for methods that share what they learn between several: int64 [Rows]; null where nobody says.</summary>
    public Tensor? TaskIds { get; init; }

    /// <summary>In a diffusion model, how noisy what its rows show is; null in its text encoders and elsewhere.</summary>
    public NoiseTimes? Noise { get; init; }

    /// <summary>In a slot of experts' weights: which rows of the input belong to which expert; null elsewhere.</summary>
    public ExpertRows? ExpertRows { get; init; }

    /// <summary>
    /// Completes the pass once its tokens are known, int64 [rows, all], those of earlier passes in the cache among them: what an adapter prepared
    /// that the tokens decide. Null usually.
    /// </summary>
    public Func<Tensor, ForwardContext, ForwardContext>? OnTokens { get; init; }

    /// <summary>Where adapters act that wait for tokens, by their names: a truth value for each position of the pass, [rows, length].</summary>
    public IReadOnlyDictionary<string, Tensor> Activations { get; init; } = FrozenDictionary<string, Tensor>.Empty;

    /// <summary>Whether the pass gives every layer's input (<see cref="BackboneOutput.HiddenStates"/>) beside the last hidden states.</summary>
    public bool KeepsHiddenStates { get; init; }

    /// <summary>Takes down what layers compute of one token, to be run again for the next; null usually.</summary>
    internal Steps.StepRecorder? Recorder { get; init; }

    /// <summary>Whether products of such values are formed in float32 although they are bfloat16.</summary>
    internal bool Widens(Tensor x) => ProductType == ScalarType.Float32 && x.dtype == ScalarType.BFloat16;

    /// <summary>Whether products of such values are formed in bfloat16 although they are float32.</summary>
    internal bool Narrows(Tensor x) => ProductType == ScalarType.BFloat16 && x.dtype == ScalarType.Float32;

    /// <summary>The values as products take them: rounded where products are narrower than they.</summary>
    internal Tensor Narrowed(Tensor x) => Narrows(x) ? x.to(ScalarType.BFloat16) : x;

    /// <summary>Everything that masks are drawn from in the pass.</summary>
    internal IReadOnlyList<Generator> AllGenerators => Generator is { } own ? [own, .. Generators.Values] : [.. Generators.Values];

    /// <summary>Index of the pass's first position: what the cache holds and a prefix of keys stand before it.</summary>
    public long Start => (Cache?.Length ?? 0) + (Prompt is { KeyValues: not null } prompt ? prompt.Length : 0);

    /// <summary>Tensors known to the tape that come with the context, not through a layer's input.</summary>
    internal IReadOnlyList<Tensor> TapeTensors => Prompt?.Tensors ?? [];

    /// <summary>The same pass with other tensors in place of <see cref="TapeTensors"/>.</summary>
    internal ForwardContext WithTapeTensors(IReadOnlyList<Tensor> tensors) => this with { Prompt = Prompt?.With(tensors) };
}
