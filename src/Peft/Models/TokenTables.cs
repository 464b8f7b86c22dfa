using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>The parameters of a model that have a row a token: its token embeddings, its output layer with a bias, and whoever shares these. They can grow.</summary>
/// <param name="model">The model.</param>
internal sealed class TokenTables(PretrainedModel model)
{
    private const string VocabularyKey = "vocab_size";
    private const string LogitsBias = "final_logits_bias";

    /// <summary>The tables, those that share weights of others included.</summary>
    /// <exception cref="NotSupportedByPeftException"><c>VocabularyNotExtendable</c>.</exception>
    public IReadOnlyList<NamedParameter> All()
    {
        if (model.Backbone.TokenEmbeddings is not { } embeddings || model.Config.Node("vocab_size_per_layer_input") is not null)
        {
            throw new NotSupportedByPeftException("VocabularyNotExtendable", $"The vocabulary of a model of the type '{model.Config.ModelType}' can't be extended: it isn't one table of token embeddings.")
            {
                Target = model.Config.ModelType,
            };
        }

        HashSet<Parameter> owners = [Owner(embeddings.Weight)];
        if (model.OutputEmbeddings is { } path && model.Find(path) is Linear { IsTransposed: false } head)
        {
            owners.Add(Owner(head.Weight));
            if (head.Bias is { } bias)
            {
                owners.Add(Owner(bias));
            }
        }

        return [.. model.NamedParameters().Where(named => owners.Contains(Owner(named.Parameter)))];
    }

    /// <summary>Gives tokens their rows, in tables that grow as far as their ids ask for it.</summary>
    /// <param name="rows">The tokens: each starts as the mean of the rows that it is like, or of all rows before the first of them where it names none.</param>
    /// <param name="given">Rows that are known for a table, by its owner, as many as it has in the end; null for none.</param>
    /// <returns>What takes it back.</returns>
    /// <exception cref="NotSupportedByPeftException"><c>VocabularyNotExtendable</c>.</exception>
    /// <exception cref="PeftException"><c>WeightsPacked</c>.</exception>
    public Growth Grow(IReadOnlyList<TableRow> rows, Func<Parameter, Tensor?>? given = null)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var tables = All();
        var growth = new Growth(model);
        try
        {
            foreach (var table in tables.Where(static named => named.Parameter.IsOwner))
            {
                var count = Math.Max(table.Parameter.Shape[0], rows.Max(static row => row.Id) + 1L);
                growth.Replace(table, tables, count, model.IsLoaded ? Grown(table.Parameter.Data, count, rows, given?.Invoke(table.Parameter)) : null);
            }

            var size = model.Backbone.TokenEmbeddings!.Count;
            growth.SetSize(VocabularyKey, size);
            if (model.Carried.FirstOrDefault(static entry => entry.Name == LogitsBias).Tensor is { } offsets && offsets.size(-1) < size)
            {
                growth.Exchange(LogitsBias, cat([offsets, zeros([1, size - offsets.size(-1)], offsets.dtype, offsets.device)], 1));
            }

            return growth;
        }
        catch
        {
            growth.Undo();
            throw;
        }
    }

    private static Parameter Owner(Parameter parameter) => parameter.TiedTo ?? parameter;

    private static Tensor Grown(Tensor before, long count, IReadOnlyList<TableRow> rows, Tensor? given)
    {
        var grown = empty([count, .. before.shape[1..]], before.dtype, before.device);
        grown.narrow(0, 0, before.shape[0]).copy_(before);
        var known = before.narrow(0, 0, Math.Min(before.shape[0], rows.Min(static row => row.Id)));
        if (count > before.shape[0])
        {
            // An id between may have no token.
            grown.narrow(0, before.shape[0], count - before.shape[0]).copy_(Mean(known));
        }

        foreach (var (id, like) in rows)
        {
            var start = given?.select(0, id) ?? (like.Count == 0 ? Mean(known) : Mean(before.index_select(0, tensor([.. like.Select(static id => (long)id)], device: before.device))));
            grown.select(0, id).copy_(start);
        }

        return grown;
    }

    private static Tensor Mean(Tensor rows) => rows.to(ScalarType.Float32).mean([0]);

    /// <summary>Tables that grew, and the way back.</summary>
    /// <param name="model">The model.</param>
    internal sealed class Growth(PretrainedModel model)
    {
        private readonly Stack<Action> _undo = [];
        private readonly List<Tensor> _before = [];

        /// <summary>Gives a table other weights.</summary>
        public void Replace(NamedParameter table, IReadOnlyList<NamedParameter> tables, long count, Tensor? weights)
        {
            var (parameter, rows) = (table.Parameter, table.Parameter.Shape[0]);
            NamedParameter[] sharing = [table, .. tables.Where(other => other.Parameter.TiedTo == parameter)];
            var places = sharing.Where(named => model.Places.ContainsKey(named.Path)).Select(named => (named.Path, Parts: model.Places[named.Path])).ToArray();
            var before = parameter.Resize(count, weights);
            Follow();
            foreach (var (path, parts) in places)
            {
                model.Places[path] = [.. parts.Select(part => part with { Size = count })];
            }

            _undo.Push(() =>
            {
                parameter.Resize(rows, before)?.Dispose();
                _ = before is null ? false : _before.Remove(before);
                Follow();
                foreach (var (path, parts) in places)
                {
                    model.Places[path] = parts;
                }
            });
            if (before is not null)
            {
                _before.Add(before);
            }

            void Follow()
            {
                foreach (var follower in sharing.Skip(1))
                {
                    follower.Parameter.ResizeAs(parameter);
                }
            }
        }

        /// <summary>Says the size in the configuration.</summary>
        public void SetSize(string key, long size)
        {
            foreach (var config in new[] { model.Backbone.Config, model.Config }.Distinct().Where(config => ReferenceEquals(config, model.Backbone.Config) || config.Document.ContainsKey(key)))
            {
                var before = config.Document.ContainsKey(key) ? config.Document[key]?.DeepClone() : config.Node(key)?.DeepClone();
                config.Set(key, size);
                _undo.Push(() => config.Set(key, before));
            }
        }

        /// <summary>Gives a carried tensor another value.</summary>
        public void Exchange(string name, Tensor tensor)
        {
            var before = model.ExchangeCarried(name, tensor);
            _before.Add(before);
            _undo.Push(() =>
            {
                model.ExchangeCarried(name, before).Dispose();
                _before.Remove(before);
            });
        }

        /// <summary>Makes everything as it was.</summary>
        public void Undo()
        {
            while (_undo.TryPop(out var step))
            {
                step();
            }
        }

        /// <summary>Drops what the tables were before.</summary>
        public void Keep()
        {
            _undo.Clear();
            _before.ForEach(static tensor => tensor.Dispose());
            _before.Clear();
        }
    }
}

/// <summary>A token that is given a row.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Like">Tokens as whose mean its row starts; none for all that were there before.</param>
internal readonly record struct TableRow(int Id, IReadOnlyList<int> Like);
