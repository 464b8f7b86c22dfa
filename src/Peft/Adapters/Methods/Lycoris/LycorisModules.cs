namespace Peft.Adapters.Methods.Lycoris;

/// <summary>Gathers what a file holds, tensor by tensor, into what acts on each module.</summary>
internal sealed class LycorisModules
{
    private readonly Dictionary<string, Dictionary<string, IReadOnlyList<long>>> _shapes = new(StringComparer.Ordinal);
    private readonly Dictionary<string, double> _alphas = new(StringComparer.Ordinal);
    private readonly HashSet<string> _byInput = new(StringComparer.Ordinal);

    /// <summary>Paths of the modules, in the order they came.</summary>
    public IEnumerable<string> Paths => _shapes.Keys;

    /// <summary>A name of a file as module and key, or null where no key is known that ends it.</summary>
    public static (string Module, string Key)? Split(string name)
    {
        var key = LycorisModule.Keys.FirstOrDefault(key => name.Length > key.Length + 1 && name.EndsWith(key, StringComparison.Ordinal) && name[name.Length - key.Length - 1] == '.');
        return key is null ? null : (name[..(name.Length - key.Length - 1)], key);
    }

    /// <summary>Takes a tensor in.</summary>
    /// <param name="path">The module's path.</param>
    /// <param name="key">The rest of its name.</param>
    /// <param name="shape">Its sizes.</param>
    /// <param name="number">Its value, where it is one number.</param>
    public void Add(string path, string key, IReadOnlyList<long> shape, Func<double> number)
    {
        if (!_shapes.TryGetValue(path, out var shapes))
        {
            _shapes[path] = shapes = new(StringComparer.Ordinal);
        }

        if (key == LycorisModule.AlphaKey)
        {
            _alphas[path] = number();
            return;
        }

        shapes[key] = shape;
        if (key == LycorisModule.InputMark && number() != 0)
        {
            _byInput.Add(path);
        }
    }

    /// <summary>Gives a module an alpha that no tensor says, unless one does.</summary>
    public void SetAlpha(string path, double alpha) => _alphas.TryAdd(path, alpha);

    /// <summary>What acts on each module.</summary>
    public Dictionary<string, LycorisModule> Build() => _shapes.ToDictionary(
        static entry => entry.Key,
        entry => new LycorisModule(entry.Value) { Alpha = _alphas.TryGetValue(entry.Key, out var alpha) ? alpha : null, IsByInput = _byInput.Contains(entry.Key) },
        StringComparer.Ordinal);
}
