using Peft.Adapters.Configuration;
using Peft.Adapters.Methods.Prompts;
using Peft.Models;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.MultitaskPromptTuning;

/// <summary>With what multitask prompt tuning starts.</summary>
public enum MultitaskStart
{
    /// <summary>Normal random numbers.</summary>
    Random,

    /// <summary>The vectors of a text's tokens, repeated or cut to the number of virtual tokens.</summary>
    Text,

    /// <summary>What an adapter of several tasks shares, and the mean of its tasks.</summary>
    AverageSourceTasks,

    /// <summary>What an adapter of several tasks shares, and one of its tasks.</summary>
    ExactSourceTask,

    /// <summary>What an adapter of several tasks shares; the task is random.</summary>
    OnlySourceShared,
}

/// <summary>
/// Multitask prompt tuning (Wang et al. 2023): all tasks share virtual tokens, and each task multiplies them, element by element, by a matrix of low rank of its own.
/// Defaults are PEFT's.
/// </summary>
public sealed record MultitaskPromptTuningConfig : TextPromptConfig
{
    /// <inheritdoc/>
    public override string PeftType => "MULTITASK_PROMPT_TUNING";

    /// <summary>Number of tasks. A row of the data says its own in the column <c>task_id</c>, counted from 0.</summary>
    [ConfigField("num_tasks", Parameter = "TaskCount", Minimum = 1)]
    public int TaskCount { get; init; } = 1;

    /// <summary>Rank of a task's matrix.</summary>
    [ConfigField("num_ranks", Parameter = "TaskRank", Minimum = 1)]
    public int TaskRank { get; init; } = 1;

    /// <summary>How the virtual tokens start: <c>RANDOM</c>, <c>TEXT</c>, or from an adapter that learnt several tasks: <c>AVERAGE_SOURCE_TASKS</c>, <c>EXACT_SOURCE_TASK</c> or <c>ONLY_SOURCE_SHARED</c>.</summary>
    [ConfigField("prompt_tuning_init", Parameter = "Initialization", Choices = ["RANDOM", "TEXT", "AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK", "ONLY_SOURCE_SHARED"])]
    public MultitaskStart Start { get; init; }

    /// <summary>File of the adapter to start from.</summary>
    [ConfigField("prompt_tuning_init_state_dict_path", Parameter = "SourcePath")]
    public string? SourcePath { get; init; }

    /// <summary>With <c>EXACT_SOURCE_TASK</c>, which task of that adapter, counted from 0.</summary>
    [ConfigField("prompt_tuning_init_task", Parameter = "SourceTask", Minimum = 0)]
    public int SourceTask { get; init; }

    private protected override bool NeedsText => Start == MultitaskStart.Text;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (Start >= MultitaskStart.AverageSourceTasks && string.IsNullOrEmpty(SourcePath))
        {
            throw Contradiction("A start from another adapter needs prompt_tuning_init_state_dict_path.");
        }
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new MultitaskPromptTuningAdapter(name, this);
}

/// <summary>Multitask prompt tuning on a model.</summary>
public sealed class MultitaskPromptTuningAdapter(string name, MultitaskPromptTuningConfig config) : PromptAdapter(name, config)
{
    private const string ColumnKey = "prefix_task_cols";
    private const string RowKey = "prefix_task_rows";

    // PEFT's standard deviation.
    private const double TaskDeviation = 0.02;

    private readonly MultitaskPromptTuningConfig _config = config;

    private Parameter _columns = null!;
    private Parameter _rows = null!;

    /// <inheritdoc/>
    public override void Initialise(Generator generator, Predicate<Parameter> needed)
    {
        ArgumentNullException.ThrowIfNull(needed);
        using var source = _config.Start >= MultitaskStart.AverageSourceTasks && needed(Table) ? TensorStore.OpenFile(_config.SourcePath!) : null;
        base.Initialise(generator, needed);
        if (source is not null)
        {
            Assign(Table, source.Read(TableKey), source.Path);
        }

        foreach (var (parameter, key) in new[] { (_columns, ColumnKey), (_rows, RowKey) })
        {
            if (!needed(parameter))
            {
                continue;
            }

            if (source is null || _config.Start == MultitaskStart.OnlySourceShared)
            {
                parameter.Assign(RandomTensors.Normal(parameter.Shape, TaskDeviation, generator, Device));
            }
            else
            {
                Assign(parameter, OfTask(source.Read(key), source.Path), source.Path);
            }
        }
    }

    private protected override void DeclareTable()
    {
        base.DeclareTable();
        _columns = new Parameter(ColumnKey, [_config.TaskCount, RowCount, _config.TaskRank]);
        _rows = new Parameter(RowKey, [_config.TaskCount, _config.TaskRank, RowWidth]);
        Shared.Add(new AdapterParameter("prompt_encoder." + ColumnKey, _columns) { FileKey = ColumnKey });
        Shared.Add(new AdapterParameter("prompt_encoder." + RowKey, _rows) { FileKey = RowKey });
    }

    private protected override Tensor Start(Generator generator)
    {
        if (_config.Start != MultitaskStart.Text)
        {
            return base.Start(generator);
        }

        using var scope = NewDisposeScope();
        return VectorsOf(((MultitaskPromptTuningConfig)Config).TextIds(Table.Shape[0])).MoveToOuterDisposeScope();
    }

    private protected override VirtualPrompt Prompt(Tensor values, ForwardContext pass)
    {
        var (tokens, tasks) = (Config.VirtualTokens!.Value, Tasks(pass));
        return new VirtualPrompt(tokens)
        {
            Embeddings = Part(0),
            DecoderEmbeddings = Config.Submodules == 2 ? Part(1) : null,
        };

        // [rows · tokens, width]: each row has the prompt of its own task.
        Tensor Part(int part) => OnTape(
            pass,
            inputs => _columns.Data.index_select(0, tasks).matmul(_rows.Data.index_select(0, tasks)).mul(inputs[0].unsqueeze(0)).narrow(1, part * tokens, tokens).flatten(0, 1),
            [values],
            [_columns, _rows]);
    }

    private Tensor Tasks(ForwardContext pass)
    {
        if (pass.TaskIds is { } given)
        {
            return given;
        }

        return _config.TaskCount == 1 ? zeros([pass.Rows], ScalarType.Int64, Device) : throw new PeftException(
            "TaskIdsMissing", $"'{Name}' knows {_config.TaskCount} tasks, and nobody said which one the rows are.")
        {
            Target = Name,
            RecommendedAction = "Give the rows of the data set, or of -Row, a column task_id, counted from 0; -Options @{ task_ids = 0 } says it for a whole generation.",
        };
    }

    private void Assign(Parameter parameter, Tensor value, string path)
    {
        if (!parameter.Shape.SequenceEqual(value.shape))
        {
            throw new PeftException("PromptDoesNotFit", $"'{path}' holds a prompt of the shape {string.Join(" x ", value.shape)}, but {string.Join(" x ", parameter.Shape)} is needed.")
            {
                Target = path,
                RecommendedAction = "Start from an adapter with as many virtual tokens and the same rank, and with num_tasks 1.",
            };
        }

        parameter.Assign(value.to(ScalarType.Float32).to(Device));
    }

    private Tensor OfTask(Tensor all, string path)
    {
        if (_config.Start == MultitaskStart.AverageSourceTasks)
        {
            return all.mean([0], keepdim: true);
        }

        return _config.SourceTask < all.size(0) ? all.narrow(0, _config.SourceTask, 1).clone() : throw new PeftException(
            "AdapterConfigContradictory", $"'{path}' holds {all.size(0)} tasks; there is none with the number {_config.SourceTask}.") { Target = path };
    }
}
