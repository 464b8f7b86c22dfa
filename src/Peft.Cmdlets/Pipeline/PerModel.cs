using Peft.Adapters.Model;

namespace Peft.Cmdlets.Pipeline;

/// <summary>What a cmdlet collects until the pipeline ends, for each model on its own.</summary>
internal sealed class PerModel<T>
{
    private readonly List<(PeftModel Model, List<T> Items)> _groups = [];

    /// <summary>The models in the order in which they came, each with what was collected for it.</summary>
    public IReadOnlyList<(PeftModel Model, List<T> Items)> Groups => _groups;

    /// <summary>Adds to what a model has.</summary>
    public void Add(PeftModel model, params IEnumerable<T> items)
    {
        var index = _groups.FindIndex(group => ReferenceEquals(group.Model, model));
        if (index < 0)
        {
            index = _groups.Count;
            _groups.Add((model, []));
        }

        _groups[index].Items.AddRange(items);
    }
}
