using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Poly;

/// <summary>Poly (Ponti et al. 2022, Caccia et al. 2023): each row's change is a mixture of a few low-rank ones, the skills, in shares that its task has learned. Defaults are PEFT's.</summary>
[ConfigWithout("layers_to_transform", "layers_pattern")]
public sealed record PolyConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "POLY";

    /// <summary>Rank of a skill.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 8;

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <summary>The kind of mixture.</summary>
    [ConfigField("poly_type", Choices = ["poly"])]
    public string Kind { get; init; } = "poly";

    /// <summary>Tasks that rows may have.</summary>
    [ConfigField("n_tasks", Parameter = "TaskCount", Minimum = 1)]
    public int TaskCount { get; init; } = 1;

    /// <summary>Skills of each layer.</summary>
    [ConfigField("n_skills", Parameter = "SkillCount", Minimum = 1)]
    public int SkillCount { get; init; } = 4;

    /// <summary>Parts of inputs and outputs that are mixed each for itself: a divisor of both in every adapted layer.</summary>
    [ConfigField("n_splits", Parameter = "SplitCount", Minimum = 1)]
    public int SplitCount { get; init; } = 1;

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not Linear)
        {
            throw KindRefused(layer);
        }

        return layer.Inputs % SplitCount == 0 && layer.Outputs % SplitCount == 0 ? new PolyLayer(layer, this, adapter.Name) : throw new PeftException(
            "RankInvalid", $"n_splits is {SplitCount}, which doesn't divide the {layer.Inputs} inputs and {layer.Outputs} outputs of '{layer.Path}'.")
        {
            Target = layer.Path,
            RecommendedAction = "Give a number that divides both in every adapted layer.",
        };
    }
}

/// <summary>The skills of one layer, and what each task takes of them.</summary>
internal sealed class PolyLayer : LayerAdapter
{
    private const double Least = 1e-12;

    private readonly PolyConfig _config;
    private readonly string _name;
    private readonly Parameter _a;
    private readonly Parameter _b;
    private readonly Parameter _shares;

    /// <summary>Makes the skills, by shape alone: [splits, skills, in / splits, rank], [splits, skills, rank, out / splits], and the shares' logits [tasks, splits · skills].</summary>
    public PolyLayer(IAdaptable layer, PolyConfig config, string name)
        : base(layer)
    {
        _config = config;
        _name = name;
        var (splits, skills) = (config.SplitCount, config.SkillCount);
        _a = new Parameter("poly_lora_A", [splits, skills, layer.Inputs / splits, config.Rank]);
        _b = new Parameter("poly_lora_B", [splits, skills, config.Rank, layer.Outputs / splits]);
        _shares = new Parameter("module_logits", [config.TaskCount, splits * skills]);
        Parameters = [new("poly_lora_A", _a), new("poly_lora_B", _b), new("poly_router.module_logits", _shares)];
    }

    /// <inheritdoc/>
    public override string MergeObstacle => "what it does depends on the task of a row";

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        var device = Layer.Device;
        _a.Assign(RandomTensors.Uniform(_a.Shape, 1 / Math.Sqrt(_a.Shape[2]), generator, device));
        _b.Assign(_config.StartAtZero ? RandomTensors.Zeros(_b.Shape, device) : RandomTensors.Uniform(_b.Shape, 1 / Math.Sqrt(_config.Rank), generator, device));
        _shares.Assign(RandomTensors.Uniform(_shares.Shape, 0.001, generator, device));
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var (rows, type) = (call.Context.Rows, y.dtype);
        var mix = Mixture(call.Context).to(type);
        var a = mix.bmm(_a.Data.flatten(2).to(type)).transpose(0, 1).reshape(rows, Layer.Inputs, _config.Rank);
        var b = mix.bmm(_b.Data.flatten(2).to(type)).view(_config.SplitCount, rows, _config.Rank, -1).permute(1, 2, 0, 3).reshape(rows, _config.Rank, Layer.Outputs);
        var change = x.reshape(rows, -1, Layer.Inputs).bmm(a).bmm(b).view(y.shape);
        return y + (change * (call.Weight / _config.Rank));
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare) => throw new NotSupportedException(MergeObstacle);

    /// <summary>The share of each skill in each split of each row, [splits, rows, skills]; in training a relaxed draw of whether the task has the skill (Maddison et al. 2017).</summary>
    private Tensor Mixture(ForwardContext context)
    {
        var logits = _shares.Data.index_select(0, Tasks(context)).view(-1, _config.SplitCount, _config.SkillCount);
        if (context.IsTraining)
        {
            using var drawn = empty_like(logits).uniform_(Least, 1, context.Generator).clamp_(Least, 1 - 1e-7);
            logits = logits + (drawn.log() - (1 - drawn).log());
        }

        var shares = logits.sigmoid();
        return (shares / (shares.sum(-1, keepdim: true) + Least)).transpose(0, 1);
    }

    private Tensor Tasks(ForwardContext context)
    {
        if (context.TaskIds is null && _config.TaskCount > 1)
        {
            throw new PeftException("TaskIdsMissing", $"'{_name}' knows {_config.TaskCount} tasks, and nobody said which one the rows are.")
            {
                Target = _name,
                RecommendedAction = "Give the rows of the data set, or of -Row, a column task_id, counted from 0; -Options @{ task_ids = 0 } says it for a whole generation.",
            };
        }

        var tasks = context.TaskIds ?? zeros([context.Rows], ScalarType.Int64, Layer.Device);
        using var outside = tasks.ge(_config.TaskCount).logical_or(tasks.lt(0)).any();
        return outside.item<bool>() ? throw new PeftException("TaskIdInvalid", $"'{_name}' knows {_config.TaskCount} tasks, counted from 0; a row has another.")
        {
            Target = _name,
            RecommendedAction = "Give task ids below n_tasks.",
        }
            : tasks;
    }
}
