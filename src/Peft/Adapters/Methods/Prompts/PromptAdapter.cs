using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Prompts;

/// <summary>
/// A table of virtual tokens in front of every row. It is trained as it stands, or computed by a <see cref="PromptEncoder"/> that is trained in its
/// place and left behind when the table is saved, as PEFT does.
/// </summary>
public abstract class PromptAdapter(string name, PromptConfig config) : Adapter(name, config)
{
    /// <summary>The table's key in a file.</summary>
    private protected const string TableKey = "prompt_embeddings";

    private PromptEncoder? _encoder;

    /// <summary>The configuration, with the model's sizes once the adapter is declared.</summary>
    internal new PromptConfig Config
    {
        get => (PromptConfig)base.Config;
        private protected set => base.Config = value;
    }

    /// <summary>The table: [virtual tokens · parts, width].</summary>
    internal Parameter Table { get; private set; } = null!;

    /// <inheritdoc/>
    public override string MergeObstacle => "what it puts in front of a row is no weight of the model";

    /// <inheritdoc/>
    protected override string KeyPrefix => "base_model.";

    /// <summary>The base the table is made for.</summary>
    private protected PretrainedModel Base { get; private set; } = null!;

    /// <summary>Rows of the table: the virtual tokens of each part of the model.</summary>
    private protected virtual long RowCount => (long)Config.VirtualTokens!.Value * Config.Submodules!.Value;

    /// <summary>Width of the table's rows.</summary>
    private protected virtual long RowWidth => Config.TokenWidth!.Value;

    /// <inheritdoc/>
    public override void Declare(PretrainedModel model, ICollection<string> messages)
    {
        ArgumentNullException.ThrowIfNull(model);
        Base = model;
        Config = Config.For(model);
        Table = new Parameter("weight", [RowCount, RowWidth]);
        _encoder = CreateEncoder();
        DeclareTable();
        foreach (var (key, parameter) in _encoder?.Parameters ?? [])
        {
            Shared.Add(new AdapterParameter($"prompt_encoder.{key}", parameter) { FileKey = null });
        }

        base.Declare(model, messages);
    }

    /// <inheritdoc/>
    public override void Initialise(Generator generator, Predicate<Parameter> needed)
    {
        ArgumentNullException.ThrowIfNull(needed);
        if (_encoder is null)
        {
            if (needed(Table))
            {
                Table.Assign(Start(generator));
            }
        }
        else if (needed(Table))
        {
            _encoder.Initialise(generator, Device);
            OnSaving();
        }
        else
        {
            DropEncoder(_encoder);
        }

        base.Initialise(generator, needed);
    }

    /// <inheritdoc/>
    public override ForwardContext Prepare(ForwardContext pass)
    {
        ArgumentNullException.ThrowIfNull(pass);
        if (pass.Prompt is not null || pass.Selection.Order.Any(entry => entry.Name == Name && entry.Weight != 1f))
        {
            throw new PeftException("PromptsConflict", $"'{Name}' puts a prompt in front of every row; it acts alone among such adapters, and at full strength.")
            {
                Target = Name,
                RecommendedAction = "Activate one adapter with a prompt, with the strength 1.",
            };
        }

        return pass with { Prompt = Prompt(Values(pass), pass) };
    }

    /// <inheritdoc/>
    public override void OnTraining(int steps)
    {
        if (_encoder is null && CreateEncoder() is not null)
        {
            throw new PeftException("PromptEncoderMissing", $"'{Name}' was loaded from a file, which holds the prompt alone: what computed it and is trained is not part of an adapter's file.")
            {
                Target = Name,
                RecommendedAction = "Resume the training from its checkpoint, or train a new adapter.",
            };
        }
    }

    /// <inheritdoc/>
    public override void OnSaving()
    {
        if (_encoder is not null)
        {
            using var noGradients = no_grad();
            using var scope = NewDisposeScope();
            Table.Assign(_encoder.Forward(new ForwardContext()).clone().MoveToOuterDisposeScope());
        }
    }

    /// <summary>Adds the table, and what is trained beside it, to <see cref="Adapter.Shared"/>.</summary>
    private protected virtual void DeclareTable() => Shared.Add(_encoder is null
        ? new AdapterParameter("prompt_encoder.embedding.weight", Table) { FileKey = TableKey }
        : new AdapterParameter(TableKey, Table, ParameterRole.Frozen));

    /// <summary>What computes the table, or null where the table is trained itself.</summary>
    private protected virtual PromptEncoder? CreateEncoder() => null;

    /// <summary>The table's first values, where it has no encoder.</summary>
    private protected virtual Tensor Start(Generator generator) => RandomTensors.Normal(Table.Shape, 1, generator, Device);

    /// <summary>What stands in front of the rows of a pass.</summary>
    /// <param name="values">The table, known to the tape.</param>
    /// <param name="pass">The pass.</param>
    private protected abstract VirtualPrompt Prompt(Tensor values, ForwardContext pass);

    /// <summary>Rows of the table that the model's first part takes.</summary>
    private protected Tensor FirstPart(Tensor values, ForwardContext pass) => Config.Submodules == 1
        ? values
        : OnTape(pass, inputs => inputs[0].narrow(0, 0, Config.VirtualTokens!.Value), [values], []);

    /// <summary>Runs a function where its inputs' and parameters' gradients are wanted; its output is a tensor of its own, known to the tape.</summary>
    private protected static Tensor OnTape(ForwardContext pass, Func<IReadOnlyList<Tensor>, Tensor> function, IReadOnlyList<Tensor> inputs, IReadOnlyList<Parameter> parameters) =>
        pass.Tape is { } tape ? tape.Autograd(function, inputs, parameters) : function(inputs);

    /// <summary>The vectors of tokens of the base, float32 [ids, width].</summary>
    private protected Tensor VectorsOf(Tensor ids)
    {
        var vectors = Base.Backbone.TokenEmbeddings ?? throw new PeftException("PromptDoesNotFit", $"{Base.ClassName} has no tokens whose vectors a prompt could start from.") { Target = Name };
        return vectors.Weight.Data.index_select(0, ids.to(Device)).to(ScalarType.Float32);
    }

    /// <summary>The table as it is in a pass, known to the tape.</summary>
    private protected virtual Tensor Values(ForwardContext pass) => _encoder is { } computes
        ? OnTape(pass, _ => computes.Forward(pass), [], [.. computes.Parameters.Select(static entry => entry.Parameter)])
        : OnTape(pass, _ => Table.Data.alias(), [], [Table]);

    /// <summary>A file holds the table alone, which stays as it is from now on.</summary>
    private void DropEncoder(PromptEncoder dropped)
    {
        _encoder = null;
        foreach (var entry in Shared.Where(entry => dropped.Parameters.Any(own => own.Parameter == entry.Parameter)).ToArray())
        {
            Shared.Remove(entry);
        }
    }
}
