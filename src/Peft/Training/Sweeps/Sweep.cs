using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Training.Evaluation;
using Peft.Training.Objectives;
using static TorchSharp.torch;

namespace Peft.Training.Sweeps;

/// <summary>
/// Several trainings on one base, and what came of each side by side: adapters of other ranks, methods, rates, data sets or seeds, and all weights of the base to compare with.
/// Those whose methods select by rows share passes over the base and end as they would alone; the others run one after another, all weights last: the base is
/// as it was afterwards.
/// </summary>
public sealed class Sweep
{
    private readonly IReadOnlyList<TrainingRequest> _requests;

    /// <summary>Prepares a sweep.</summary>
    /// <param name="requests">The trainings, of adapters that the model has; one may train the base.</param>
    /// <exception cref="PeftException"><c>TrainingsUnfit</c>: an adapter changes the base's weights while it is there.</exception>
    public Sweep(IReadOnlyList<TrainingRequest> requests)
    {
        ArgumentNullException.ThrowIfNull(requests);
        _requests = requests;
        if (requests.FirstOrDefault(static request => request.AdapterName is { } name && request.Model[name].Adapter is LayerwiseAdapter { EditsBase: true }) is { } editing)
        {
            throw new PeftException("TrainingsUnfit", $"The adapter '{editing.AdapterName}' starts by changing the base's weights (init_lora_weights), on which the others are trained.")
            {
                Target = editing.AdapterName,
                RecommendedAction = "Train it by itself, or start it as usual.",
            };
        }
    }

    /// <summary>Runs all trainings.</summary>
    /// <param name="cancellation">As of <see cref="Trainer.Train"/>.</param>
    /// <returns>What came of each, in the order of the requests, trainings that differ by their seed alone as one; before them the base, where rows are set apart to measure it on.</returns>
    public IReadOnlyList<TrainingComparison> Run(CancellationToken cancellation = default)
    {
        using var held = _requests[0].Model.Acquire("training");
        var results = new TrainingComparison[_requests.Count];
        foreach (var group in _requests.Index().GroupBy(entry => Group(entry.Item, entry.Index)).OrderBy(static group => group.Key.IsBase).ThenBy(static group => group.Key.Number))
        {
            var (indices, requests) = (group.Select(static entry => entry.Index).ToArray(), group.Select(static entry => entry.Item).ToArray());
            using var before = group.Key.IsBase ? new KeptBase(requests[0].Model) : null;
            var records = new Trainer(requests).TrainAll(cancellation);
            for (var i = 0; i < indices.Length; i++)
            {
                var selection = requests[i].AdapterName is { } name ? AdapterSelection.Of(name) : AdapterSelection.Base;
                results[indices[i]] = TrainingComparison.Of(requests[i], records[i], RowLosses.Measure(requests[i], selection, cancellation));
            }
        }

        var losses = RowLosses.Measure(_requests[0], AdapterSelection.Base, cancellation);
        return [.. losses.Length > 0 ? [TrainingComparison.OfBase(losses)] : Array.Empty<TrainingComparison>(), .. BySeed(results)];
    }

    /// <summary>Those that share passes are one group for each type that they compute in; each of the others is one for itself.</summary>
    private static (bool IsBase, int Number) Group(TrainingRequest request, int index)
    {
        var part = new TrainedPart(request.Model, request.AdapterName);
        return part.IsBase || !SharedPass.CanTake(request, part, request.Objective ?? ObjectiveRegistry.Create(request.Options)) ? (part.IsBase, index + 1) : (false, -((request.Options.Precision is "float32" ? 1 : 0) + (request.Options.BFloat16Products ? 2 : 0)));
    }

    private IEnumerable<TrainingComparison> BySeed(TrainingComparison[] results) => results.Index()
        .GroupBy(entry => KeyOf(_requests[entry.Index]))
        .Select(static group => group.Select(static entry => entry.Item).ToArray())
        .Select(static runs => runs.Length == 1 ? runs[0] : TrainingComparison.OfSeeds(runs, CommonName(runs)));

    /// <summary>What is the same in trainings that differ by their seed alone.</summary>
    private static string KeyOf(TrainingRequest request) =>
        $"{(request.AdapterName is { } name ? request.Model[name].Config.ToJson().ToJsonString() : "")} {request.Data.Fingerprint} {(request.Options with { Seed = 0 }).ToJson()}";

    private static string CommonName(TrainingComparison[] runs)
    {
        var suffix = FormattableString.Invariant($"-seed{runs[0].Seed}");
        return runs[0].Name.EndsWith(suffix, StringComparison.Ordinal) ? runs[0].Name[..^suffix.Length] : runs[0].Name;
    }

    /// <summary>The base's weights, which are put back when it is disposed.</summary>
    private sealed class KeptBase : IDisposable
    {
        private readonly (Parameter Parameter, Tensor Weights)[] _kept;

        public KeptBase(PeftModel model) => _kept =
        [
            .. model.Base.NamedParameters().Select(static named => named.Parameter)
                .Where(static parameter => parameter.IsOwner && parameter.Value is { } value && value.is_floating_point())
                .Select(static parameter => (parameter, parameter.Data.detach().clone().DetachFromDisposeScope())),
        ];

        public void Dispose()
        {
            using var noGrad = no_grad();
            foreach (var (parameter, weights) in _kept)
            {
                parameter.Data.copy_(weights);
                parameter.MarkChanged();
                weights.Dispose();
            }
        }
    }
}
