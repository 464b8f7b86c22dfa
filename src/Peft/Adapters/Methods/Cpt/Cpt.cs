using Peft.Adapters.Configuration;
using Peft.Adapters.Methods.Prompts;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Cpt;

/// <summary>
/// Context-aware prompt tuning (Blau et al. 2024): examples stand in front of every row as tokens whose vectors are moved by training, each at most by a given distance,
/// and whose labels are learnt along. Defaults are PEFT's.
/// </summary>
public sealed record CptConfig : PromptConfig
{
    /// <inheritdoc/>
    public override string PeftType => "CPT";

    /// <summary>Ids of the tokens that stand in front.</summary>
    [ConfigField("cpt_token_ids", Parameter = "TokenId", Minimum = 0)]
    public IReadOnlyList<int>? TokenIds { get; init; }

    /// <summary>1 for each of them; kept, and without effect here as in PEFT.</summary>
    [ConfigField("cpt_mask", Parameter = "TokenMask")]
    public IReadOnlyList<int>? TokenMask { get; init; }

    /// <summary>What each of them is: 1 and 3 parts of a template, 2 an input, 4 a label; those of the second example have 4 more, and so on. Without it all are 1.</summary>
    [ConfigField("cpt_tokens_type_mask", Parameter = "TokenType", Minimum = 0)]
    public IReadOnlyList<int>? TokenTypes { get; init; }

    /// <summary><c>decay</c> lets labels of earlier examples count less; <c>none</c> lets all count alike.</summary>
    [ConfigField("opt_weighted_loss_type", Parameter = "LossWeighting", Choices = ["none", "decay"])]
    public string LossWeighting { get; init; } = "none";

    /// <summary>By how much an example's labels count less than the next one's.</summary>
    [ConfigField("opt_loss_decay_factor", Parameter = "LossDecayFactor", Minimum = 0, IsReal = true)]
    public double LossDecayFactor { get; init; } = 1;

    /// <summary>How far the vector of an input may move.</summary>
    [ConfigField("opt_projection_epsilon", Parameter = "InputReach", Minimum = 0, IsReal = true)]
    public double InputReach { get; init; } = 0.1;

    /// <summary>How far the vector of a template's part may move.</summary>
    [ConfigField("opt_projection_format_epsilon", Parameter = "TemplateReach", Minimum = 0, IsReal = true)]
    public double TemplateReach { get; init; } = 0.1;

    /// <summary>Kept, and without effect here as in PEFT.</summary>
    [ConfigField("tokenizer_name_or_path", Parameter = "TokenizerPath")]
    public string? TokenizerPath { get; init; }

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (TaskType != "CAUSAL_LM")
        {
            throw Contradiction("CPT needs the task_type CAUSAL_LM.");
        }

        if (new[] { TokenMask, TokenTypes }.Any(list => list is not null && list.Count != Count) || (VirtualTokens ?? Count) != Count)
        {
            throw Contradiction("cpt_token_ids, cpt_mask and cpt_tokens_type_mask must have the same length, which num_virtual_tokens says where it is given.");
        }
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new CptAdapter(name, this);

    // PEFT's start where no tokens are given is its token 0.
    private protected override int? Count => TokenIds?.Count ?? 1;

    private protected override PromptConfig Filled(PromptConfig sized)
    {
        var filled = (CptConfig)sized;
        var ones = Enumerable.Repeat(1, Count!.Value).ToArray();
        return filled with { TokenIds = TokenIds ?? [0], TokenMask = TokenMask ?? ones, TokenTypes = TokenTypes ?? ones };
    }
}

/// <summary>Context-aware prompt tuning on a model.</summary>
public sealed class CptAdapter(string name, CptConfig config) : PromptAdapter(name, config)
{
    // PEFT states distances for vectors of this width.
    private const double StatedWidth = 2048;

    // The distance of what may not move.
    private const double NoReach = 1e-10;

    private Parameter _moves = null!;

    /// <inheritdoc/>
    public override long UntrainedCount => Table.Count;

    private CptConfig Cpt => (CptConfig)Config;

    /// <inheritdoc/>
    public override void Initialise(Generator generator, Predicate<Parameter> needed)
    {
        base.Initialise(generator, needed);
        _moves.Assign(RandomTensors.Zeros(_moves.Shape, Device));
    }

    /// <inheritdoc/>
    public override Tensor Saved(Parameter parameter) => parameter == Table ? Table.Data.add(Projected()) : base.Saved(parameter);

    private protected override void DeclareTable()
    {
        _moves = new Parameter("weight", Table.Shape);
        Shared.Add(new AdapterParameter(TableKey, Table, ParameterRole.Frozen));
        Shared.Add(new AdapterParameter("prompt_encoder.delta_embedding.weight", _moves) { FileKey = null });
    }

    private protected override Tensor Start(Generator generator)
    {
        using var scope = NewDisposeScope();
        return VectorsOf(Numbers(Cpt.TokenIds!)).MoveToOuterDisposeScope();
    }

    private protected override VirtualPrompt Prompt(Tensor values, ForwardContext pass)
    {
        var types = Cpt.TokenTypes!;
        using (no_grad())
        {
            _moves.Data.copy_(Projected());
        }

        var moves = tensor(types.Select(static type => type % 4 == 0 ? 0f : 1f).ToArray(), device: Device).unsqueeze(1);
        return new VirtualPrompt(types.Count)
        {
            // What may not move has no gradient.
            Embeddings = OnTape(pass, inputs => inputs[0].add(_moves.Data.mul(moves)).add(_moves.Data.detach().mul(1 - moves)), [values], [_moves]),
            Loss = new PromptLoss(Numbers(Cpt.TokenIds!), Numbers(types), types.Max(), Cpt.LossWeighting == "decay" ? Cpt.LossDecayFactor : 1),
        };
    }

    private Tensor Numbers(IReadOnlyList<int> values) => tensor(values.Select(static value => (long)value).ToArray(), device: Device);

    /// <summary>How far each vector is moved, within its reach.</summary>
    private Tensor Projected()
    {
        var scale = Math.Sqrt(_moves.Shape[1] / StatedWidth);
        var reach = tensor(Cpt.TokenTypes!.Select(type => (float)(type == 0 ? NoReach : (type % 4) switch
        {
            1 or 3 => Cpt.TemplateReach * scale,
            2 => Cpt.InputReach * scale,
            _ => NoReach,
        })).ToArray(), device: Device);
        var distance = linalg.vector_norm(_moves.Data, 2, [1]);
        return _moves.Data.mul(reach.div(distance.maximum(reach)).unsqueeze(1));
    }
}
