using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Asking;
using Peft.Adapters.Files;
using Peft.Adapters.Model;
using Peft.Engine;
using Peft.Models;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>What a training changes: an adapter, or all weights of the base model.</summary>
internal sealed class TrainedPart
{
    /// <summary>The name of the results' folder where the base itself is trained.</summary>
    public const string BaseName = "model";

    private readonly PeftModel _model;
    private readonly PeftAdapter? _adapter;

    /// <summary>Finds the part.</summary>
    /// <param name="model">The model.</param>
    /// <param name="adapterName">The adapter's name; null for the base.</param>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>.</exception>
    public TrainedPart(PeftModel model, string? adapterName)
    {
        _model = model;
        _adapter = adapterName is null ? null : model[adapterName];
        Selection = _adapter is null ? AdapterSelection.Base : AdapterSelection.Of(_adapter.Name);
    }

    /// <summary>Its name, and that of its folder.</summary>
    public string Name => _adapter?.Name ?? BaseName;

    /// <summary>Whether it is the base itself.</summary>
    public bool IsBase => _adapter is null;

    /// <summary>Who acts while it is trained.</summary>
    public AdapterSelection Selection { get; }

    /// <summary>The adapter, whose hooks the loop calls; null for the base.</summary>
    public Adapter? Adapter => _adapter?.Adapter;

    /// <summary>Its configuration, in which a training that goes on must agree.</summary>
    public JsonObject Config => _adapter?.Config.ToJson() ?? [];

    /// <summary>What is trained now.</summary>
    public IEnumerable<TrainedParameter> Parameters() => _adapter is not null
        ? _adapter.TrainableParameters.Select(parameter => new TrainedParameter(parameter.FullKey, parameter.Parameter, parameter.Module) { Scale = parameter.Scale })
        : _model.Base.NamedParameters().Where(static named => named.Parameter.IsOwner && named.Parameter.Data.is_floating_point())
            .Select(static named => new TrainedParameter(named.Path, named.Parameter, named.Module));

    /// <summary>The loss with the adapter's own term, in training and in evaluation alike.</summary>
    public Tensor Loss(Tensor loss, ForwardContext pass) => Adapter?.Loss(loss, pass) ?? loss;

    /// <summary>Writes what a checkpoint has beside the training's state: an adapter's files. The base's weights are in the state.</summary>
    public void SaveCheckpoint(string folder)
    {
        if (_adapter is not null)
        {
            AdapterFile.Save(_adapter.Adapter, folder, embeddings: null);
        }
    }

    /// <summary>Weights that are computed together are one tensor again, however the training ended.</summary>
    public void Release()
    {
        if (_adapter is null)
        {
            _model.Base.Fuse();
        }
    }

    /// <summary>What is said when the part is trained, for the record.</summary>
    public IReadOnlyList<string> Messages => _adapter?.Report.Messages ?? [];

    /// <summary>Leaves on the adapter what the training did to it, also where it was stopped.</summary>
    public void Remember(TrainingRecord record, TrainingRequest request)
    {
        if (_adapter is not null)
        {
            var form = request.Data.Form;
            _adapter.Provenance = new Provenance
            {
                Adapter = _adapter.Name,
                Base = _adapter.Config.BaseModelName,
                BaseDigest = _adapter.Adapter.BaseDigest,
                Config = _adapter.Start?.Config.ToJson(),
                StartSeed = _adapter.Start?.Seed,
                Data = request.Data.Fingerprint,
                Rows = request.Data.Count,
                Labels = Values.Of(_model.Base.ClassificationHead is null ? [] : ModelLabels.Of(_model.Base).Names),
                Objective = record.Objective,
                Options = (JsonObject)JsonNode.Parse(record.Options.ToJson())!,
                Engine = EngineDescription.Current.ToString(),
                Result = (record.StepCount, record.FinalLoss),
            };
            _adapter.Start = null;
            _adapter.TrainingRecord = record;
            _adapter.PromptForm = form ?? _adapter.PromptForm;
        }
    }

    /// <summary>The training came to its end: the adapter is the active one, and the result lies in the output's folder where there is one.</summary>
    public void Finish(TrainingRecord record)
    {
        if (_adapter is not null)
        {
            _model.SetActive(_adapter.Name);
        }

        if (record.OutputPath is { } folder)
        {
            Save(folder);
        }
    }

    private void Save(string folder)
    {
        if (_adapter is null)
        {
            _model.Save(folder);
        }
        else
        {
            _model.SaveAdapter(_adapter.Name, folder);
        }
    }
}
