using System.Text.Json.Nodes;

namespace Peft.Models;

/// <summary>
/// A model whose blocks stand in its stack several times over, for as long as adapters use it so (PEFT's <c>layer_replication</c>). The adapter
/// that asked for it began it, those that came later were made for it; when the last one leaves, the model is what it was.
/// </summary>
internal sealed class LayerReplication
{
    /// <summary>What families call the number of their blocks.</summary>
    private static readonly string[] s_countKeys = ["num_hidden_layers", "n_layer", "num_layers", "n_layers"];

    private readonly PretrainedModel _model;
    private readonly IReadOnlyList<int> _sources;
    private readonly JsonObject _before;
    private readonly int _count;
    private readonly Action _restore;
    private int _users;

    private LayerReplication(PretrainedModel model, IReadOnlyList<int> sources)
    {
        _model = model;
        _sources = sources;
        _count = CountOf(model);
        _before = (JsonObject)model.Backbone.Config.Document.DeepClone();
        _restore = model.Backbone.ReplicateLayers(sources);
        Renumber(model.Backbone.Config.Document, _count, sources);
    }

    /// <summary>Repeats blocks of a model, or joins those who use it so already.</summary>
    /// <param name="model">The model.</param>
    /// <param name="ranges">First block and the block behind the last of each range that stands in the stack; null to join alone.</param>
    /// <param name="isInUse">Whether the model has adapters, which were made for its blocks as they are.</param>
    /// <returns>What is to be ended, or null where blocks stand once.</returns>
    /// <exception cref="PeftException"><c>LayersInvalid</c>, <c>LayersInUse</c>, or <c>LayersNotReplicable</c> where PEFT refuses too.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>LayersNotReplicable</c>: the family has no code for what PEFT does.</exception>
    public static LayerReplication? Use(PretrainedModel model, IReadOnlyList<IReadOnlyList<int>>? ranges, bool isInUse)
    {
        if (ranges is { Count: > 0 })
        {
            var sources = Sources(ranges, model.Replication?._count ?? CountOf(model));
            if (model.Replication is null && isInUse)
            {
                throw new PeftException("LayersInUse", "Blocks can't be repeated while the model has adapters that were made for its blocks as they are.");
            }

            model.Replication ??= IsWherePeftLooks(model) ? new LayerReplication(model, sources) : throw new PeftException(
                "LayersNotReplicable", $"Blocks of {model.Backbone.ClassName} don't stand where PEFT repeats them: in 'layers', 'encoder.layer' or 'h' of the model, so that nobody could load the adapter.")
            {
                RecommendedAction = "Use a decoder of the Llama line or BERT, or an adapter without layer_replication.",
            };
            if (!model.Replication._sources.SequenceEqual(sources))
            {
                throw new PeftException("LayersInUse", "The model's blocks are repeated in another way by an adapter that it has.");
            }
        }

        if (model.Replication is { } replication)
        {
            replication._users++;
        }

        return model.Replication;
    }

    /// <summary>Whether blocks stand where PEFT's replicate_layers finds them.</summary>
    internal static bool IsWherePeftLooks(PretrainedModel model)
    {
        Module place = model;
        while (Child(place, "model") is { } inner)
        {
            place = inner;
        }

        place = Child(place, "bert") ?? place;
        return Child(place, "layers") is not null || (Child(place, "encoder") is { } encoder && Child(encoder, "layer") is not null) || Child(place, "h") is not null;
    }

    private static Module? Child(Module module, string name) => module.Children.FirstOrDefault(child => child.Name == name);

    /// <summary>Says that a user leaves; after the last one blocks stand as before.</summary>
    public void End()
    {
        if (--_users > 0 || _model.Replication != this)
        {
            return;
        }

        _restore();
        _model.Replication = null;
        var document = _model.Backbone.Config.Document;
        document.Clear();
        foreach (var (key, value) in _before)
        {
            document.Add(key, value?.DeepClone());
        }
    }

    /// <summary>Makes it final: blocks that stand again have weights of their own.</summary>
    public void Keep()
    {
        HashSet<Parameter> ties = [.. _model.TiedParameters.Select(tie => _model.FindParameter(tie.Follower)!)];
        foreach (var (_, parameter, _) in _model.NamedWeights().Where(named => !named.Parameter.IsOwner && !ties.Contains(named.Parameter)).ToArray())
        {
            parameter.Assign(parameter.Data.clone());
        }

        _model.Replication = null;
        _model.Fuse();
    }

    /// <summary>Replaces the blocks of a list.</summary>
    /// <typeparam name="T">Their type.</typeparam>
    /// <param name="list">The list.</param>
    /// <param name="sources">Which of today's stands in each place.</param>
    /// <param name="make">Makes another block like the one in a place.</param>
    /// <param name="place">Says a block where it stands.</param>
    /// <returns>Puts today's blocks back.</returns>
    public static Action Replace<T>(ModuleList<T> list, IReadOnlyList<int> sources, Func<int, T> make, Action<T, int> place)
        where T : Module
    {
        T[] before = [.. list.Items];
        HashSet<int> first = [];
        T[] blocks = [.. sources.Select(source => first.Add(source) ? before[source] : Copy(before[source], make(source)))];
        Put(blocks);
        return () =>
        {
            foreach (var copy in blocks.Except(before))
            {
                copy.Dispose();
            }

            Put(before);
        };

        void Put(T[] all)
        {
            list.Replace(all);
            for (var i = 0; i < all.Length; i++)
            {
                place(all[i], i);
            }
        }
    }

    private static T Copy<T>(T original, T copy)
        where T : Module
    {
        foreach (var (own, theirs) in copy.NamedWeights().Zip(original.NamedWeights()))
        {
            own.Parameter.TieTo(theirs.Parameter);
        }

        return copy;
    }

    private static int CountOf(PretrainedModel model) => (int)(model.Backbone.Config.Integer(CountKey(model.Backbone.Config.Document)) ?? 0);

    private static string CountKey(JsonObject document) => Array.Find(s_countKeys, document.ContainsKey) ?? s_countKeys[0];

    private static int[] Sources(IReadOnlyList<IReadOnlyList<int>> ranges, int count)
    {
        if (ranges.FirstOrDefault(range => range is not [>= 0, _] || range[0] >= range[1] || range[1] > count) is { } unfit)
        {
            throw new PeftException("LayersInvalid", $"[{string.Join(", ", unfit)}] is no range of the model's {count} blocks: it has to be the first block and the block behind the last one.");
        }

        return [.. ranges.SelectMany(static range => Enumerable.Range(range[0], range[1] - range[0]))];
    }

    /// <summary>The configuration says how many blocks there are, and lists what each of them is.</summary>
    private static void Renumber(JsonObject document, int count, IReadOnlyList<int> sources)
    {
        foreach (var (key, list) in document.Where(entry => entry.Value is JsonArray list && list.Count == count).Select(static entry => (entry.Key, (JsonArray)entry.Value!)).ToArray())
        {
            document[key] = new JsonArray([.. sources.Select(source => list[source]?.DeepClone())]);
        }

        document[CountKey(document)] = sources.Count;
    }
}
