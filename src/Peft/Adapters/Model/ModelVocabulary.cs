using Peft.Adapters.Files;
using Peft.Adapters.Methods.TrainableTokens;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Tensors;
using Peft.Tokenization;
using Peft.Tokenization.AddedTokens;

namespace Peft.Adapters.Model;

/// <summary>
/// The tokens that were added to a model: its tokenizer knows them, its tables have rows for them, and the folder of every adapter that is saved has both, so that
/// they come along where it is loaded.
/// </summary>
/// <param name="model">The model.</param>
internal sealed class ModelVocabulary(PeftModel model)
{
    private readonly TokenTables _tables = new(model.Base);

    /// <summary>Ids of the tokens that were added.</summary>
    public SortedSet<int> Added { get; } = [];

    /// <summary>Adds tokens; those that the tokenizer has already stay as they are.</summary>
    /// <param name="tokens">The tokens.</param>
    public void Add(IReadOnlyList<NewToken> tokens)
    {
        var tokenizer = model.RequiredTokenizer;
        NewToken[] unknown = [.. tokens.DistinctBy(static token => token.Text).Where(token => tokenizer.TokenId(token.Text) is null)];
        foreach (var (text, phrase, _) in tokens)
        {
            if (text.Length == 0 || text != text.Trim() || phrase is not null && tokenizer.EncodeIds(phrase, addSpecialTokens: false).Length == 0)
            {
                throw new PeftException("TokenInvalid", text.Trim().Length == 0 || text != text.Trim()
                    ? $"'{text}' can't be a token: it is empty, or begins or ends with a blank, which would not be found in a text."
                    : $"The phrase '{phrase}' for the token '{text}' has no tokens to start from.")
                {
                    Target = text,
                    RecommendedAction = "Give texts such as <think>, and phrases of words that the model knows.",
                };
            }
        }

        if (unknown.Length > 0)
        {
            var extended = tokenizer.WithTokens([.. unknown.Select(static token => (token.Text, token.IsSpecial))]);
            Grow(extended, [.. unknown.Select(token => new TableRow(extended.TokenId(token.Text)!.Value, token.Phrase is { } phrase ? tokenizer.EncodeIds(phrase, addSpecialTokens: false) : []))], null).Keep();
        }
    }

    /// <summary>Takes up the tokens that the tokenizer in an adapter's folder has beyond the model's, with the rows that its file has for them.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="messages">Takes what the user should know.</param>
    /// <returns>What takes it back or keeps it; null where there are none.</returns>
    public Growing? TakeUp(string folder, ICollection<string> messages)
    {
        if (Tokenizer.FilesIn(folder).Count == 0 || model.Tokenizer is not { } own)
        {
            return null;
        }

        var theirs = Tokenizer.FromFolder(folder);
        AddedToken[] further = [.. theirs.AddedTokens.Where(token => own.TokenId(token.Content) is null).OrderBy(static token => token.Id)];
        if (further.Length == 0)
        {
            return null;
        }

        var next = own.WithTokens([.. further.Select(static token => (token.Content, token.Special))]);
        if (Array.Find(further, token => next.TokenId(token.Content) != token.Id) is { } other || theirs.VocabularySize != next.VocabularySize)
        {
            messages.Add($"The tokenizer in '{folder}' has {further.Length} tokens more than the model's and numbers them otherwise: it isn't taken up.");
            return null;
        }

        messages.Add($"{(further.Length == 1 ? "The token" : $"{further.Length} tokens,")} {string.Join(", ", further.Take(5).Select(static token => token.Content))}{(further.Length > 5 ? ", …" : "")}, came with '{folder}': the vocabulary of '{model.Name}' has {(further.Length == 1 ? "it" : "them")} from now on.");
        using var file = model.IsStructureOnly ? null : AdapterFile.Open(folder);
        return Grow(theirs, [.. further.Select(static token => new TableRow(token.Id, [])), .. Fillers(further[^1].Id, file)], file);
    }

    /// <summary>Tables whose added rows an adapter doesn't hold itself: they go into its file.</summary>
    /// <param name="adapter">The adapter.</param>
    public IEnumerable<NamedParameter> NotHeldBy(Adapter adapter)
    {
        if (Added.Count == 0)
        {
            yield break;
        }

        foreach (var table in _tables.All().Where(static named => named.Parameter.IsOwner))
        {
            var isHeld = adapter.Overlays.Any(overlay => overlay.Targets.Any(target => Shares(target.Parameter, table.Parameter)))
                || adapter.Layers.Any(layer => layer.Adapter is TokenRowsLayer rows && Shares(layer.Layer.Weight, table.Parameter) && Added.IsSubsetOf(rows.Indices));
            if (!isHeld)
            {
                yield return table;
            }
        }
    }

    /// <summary>Writes the tokenizer beside an adapter where tokens were added.</summary>
    /// <param name="folder">The adapter's folder.</param>
    public void SaveBeside(string folder)
    {
        if (Added.Count > 0)
        {
            model.RequiredTokenizer.Save(folder);
        }
    }

    private static bool Shares(Parameter parameter, Parameter owner) => parameter == owner || parameter.TiedTo == owner;

    private Growing Grow(Tokenizer extended, IReadOnlyList<TableRow> rows, TensorStore? file)
    {
        var tables = _tables.All();
        var inUse = tables.Select(static named => named.Parameter)
            .Where(parameter => model.Adapters.Any(adapter => adapter.Adapter.Layers.Any(layer => layer.Layer.Weight == parameter) || adapter.Adapter.Overlays.Any(overlay => overlay.Targets.Any(target => target.Parameter == parameter))));
        if (inUse.Any())
        {
            throw new PeftException("VocabularyInUse", $"An adapter of '{model.Name}' acts on its token embeddings or its output layer, in the size that they have now: its vocabulary can't grow.")
            {
                Target = model.Name,
                RecommendedAction = "Add tokens before such an adapter is added or loaded.",
            };
        }

        // Which base it is, is what it was before it grew.
        model.Base.Digest ??= ModelDigest.Of(model.Base);
        var before = model.Tokenizer;
        var growth = _tables.Grow(rows, owner => file is null ? null : Rows(file, [.. tables.Where(named => Shares(named.Parameter, owner)).Select(static named => named.Path)]));
        model.Exchange(extended);
        int[] added = [.. rows.Select(static row => row.Id).Where(id => extended.TokenText(id) is not null)];
        Added.UnionWith(added);
        return new Growing(growth, () =>
        {
            model.Exchange(before);
            Added.ExceptWith(added);
        });
    }

    /// <summary>Rows behind the last token's, with which a file's tables are filled up to a round number.</summary>
    private IEnumerable<TableRow> Fillers(int last, TensorStore? file)
    {
        var rows = file is null ? 0 : _tables.All().Max(named => Key(file, [named.Path]) is { } key ? file.Entry(key).Shape[0] : 0);
        for (var id = last + 1; id < rows; id++)
        {
            yield return new TableRow(id, []);
        }
    }

    /// <summary>A table as an adapter's file has it.</summary>
    private static TorchSharp.torch.Tensor? Rows(TensorStore file, IReadOnlyList<string> paths) => Key(file, paths) is { } key ? file.Read(key) : null;

    /// <summary>The key of a table in an adapter's file, whatever stands around the layer there.</summary>
    private static string? Key(TensorStore file, IReadOnlyList<string> paths)
    {
        foreach (var path in paths)
        {
            var dot = path.LastIndexOf('.');
            string[] names = [path, $"{path[..dot]}.base_layer{path[dot..]}", $"{path[..dot]}.token_adapter.base_layer{path[dot..]}", $"{path[..dot]}.modules_to_save{path[dot..]}"];
            if (Array.Find(names, name => file.Contains(AdapterFile.Prefix + name)) is { } found)
            {
                return AdapterFile.Prefix + found;
            }
        }

        return null;
    }

    /// <summary>A vocabulary that grew, until it is kept.</summary>
    internal sealed class Growing(TokenTables.Growth growth, Action undo) : IDisposable
    {
        private bool _isKept;

        /// <summary>Makes it final.</summary>
        public void Keep()
        {
            growth.Keep();
            _isKept = true;
        }

        /// <summary>Takes it back, unless it was kept.</summary>
        public void Dispose()
        {
            if (!_isKept)
            {
                growth.Undo();
                undo();
                _isKept = true;
            }
        }
    }
}

/// <summary>A token that a model is to learn.</summary>
/// <param name="Text">The text that stands for it.</param>
/// <param name="Phrase">What its vectors start as the mean of; null for the mean of all.</param>
/// <param name="IsSpecial">Whether it is a mark, left out where text is shown, rather than text.</param>
public sealed record NewToken(string Text, string? Phrase = null, bool IsSpecial = false);
