using Peft.Models.Layers;
using Peft.Models.Placement;

namespace Peft.Models;

/// <summary>
/// A node in the model's tree. Names are Hugging Face's, so that the path of a parameter is its key in a checkpoint,
/// and <see cref="ClassName"/> is what PyTorch prints.
/// </summary>
public abstract class Module : IDisposable
{
    private readonly List<Module> _children = [];
    private readonly List<Parameter> _parameters = [];
    private readonly List<Parameter> _buffers = [];
    private readonly List<LinearGroup> _groups = [];
    private int _listedLast;

    /// <summary>Makes an empty module.</summary>
    /// <param name="className">transformers' class name, such as <c>LlamaAttention</c>; null where the C# type has the same.</param>
    protected Module(string? className = null)
    {
        ClassName = className ?? GetType().Name;
    }

    /// <summary>transformers' class name, such as <c>LlamaAttention</c>. Families that share code differ in it.</summary>
    public string ClassName { get; }

    /// <inheritdoc/>
    public override string ToString() => Path.Length > 0 ? $"{Path} ({ClassName})" : ClassName;

    /// <summary>What transformers prints between the parentheses of a leaf, such as <c>in_features=32, out_features=16, bias=False</c>.</summary>
    public virtual string Details => "";

    /// <summary>Local name, such as <c>q_proj</c>; empty for the root.</summary>
    public string Name { get; private set; } = "";

    /// <summary>The module that holds this one; null for the root.</summary>
    public Module? Parent { get; private set; }

    /// <summary>Full name from the root, such as <c>model.layers.0.self_attn.q_proj</c>; empty for the root.</summary>
    public string Path => Parent is null || Parent.Path.Length == 0 ? Name : $"{Parent.Path}.{Name}";

    /// <summary>In a block whose weights lie elsewhere than where they are computed with, what brings them there; null usually.</summary>
    internal BlockResidence? Residence { get; set; }

    /// <summary>Children in the order transformers lists them.</summary>
    public IReadOnlyList<Module> Children => _children;

    /// <summary>This module's own parameters, without its children's.</summary>
    public IReadOnlyList<Parameter> Parameters => _parameters;

    /// <summary>Layers of this module that are computed as one product: see <see cref="Group"/>.</summary>
    public IReadOnlyList<LinearGroup> Groups => _groups;

    /// <summary>Bytes that a training keeps of each token for this module's backward pass, beside what its children and linear layers keep: an estimate.</summary>
    /// <param name="elementBytes">Bytes of an element of the hidden states.</param>
    internal virtual long KeptBytes(int elementBytes) => 0;

    /// <summary>This module and everything below it, parents first, in transformers' order.</summary>
    public IEnumerable<Module> Descendants()
    {
        yield return this;
        foreach (var child in _children)
        {
            foreach (var descendant in child.Descendants())
            {
                yield return descendant;
            }
        }
    }

    /// <summary>Every parameter at or below this module with its full path, in transformers' order; tied ones are listed under each name.</summary>
    public IEnumerable<NamedParameter> NamedParameters() =>
        from module in Descendants()
        from parameter in module.Parameters
        select new NamedParameter(Join(module.Path, parameter.Name), parameter, module);

    /// <summary>Every parameter and buffer at or below this module: what its files hold. Buffers (a bias that balances experts) are neither counted nor trained.</summary>
    public IEnumerable<NamedParameter> NamedWeights() =>
        from module in Descendants()
        from parameter in module._parameters.Concat(module._buffers)
        select new NamedParameter(Join(module.Path, parameter.Name), parameter, module);

    /// <summary>The module at a path relative to this one, or null.</summary>
    public Module? Find(string path)
    {
        var current = this;
        foreach (var part in path.Length == 0 ? [] : path.Split('.'))
        {
            current = current._children.Find(child => child.Name == part);
            if (current is null)
            {
                return null;
            }
        }

        return current;
    }

    /// <summary>What adapters may do with one of this module's own parameters, or null where nothing; a module of several weights (experts) gives each its own.</summary>
    public virtual IAdaptable? AdaptableOf(Parameter parameter) => this is IAdaptable own && own.Weight == parameter ? own : null;

    /// <summary>What adapters adapt where they target this module; empty for a module that is no layer.</summary>
    public virtual IReadOnlyList<IAdaptable> Adaptables => this is IAdaptable own ? [own] : [];

    /// <summary>Number of elements of all parameters at or below this module, each shared one counted once.</summary>
    public long CountParameters() => NamedParameters().Where(static named => named.Parameter.IsOwner).Sum(static named => named.Parameter.Count);

    /// <summary>Frees all weights at or below this module.</summary>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees what a derived module owns beside its parameters.</summary>
    protected virtual void Dispose(bool disposing)
    {
        if (!disposing)
        {
            return;
        }

        _groups.ForEach(static group => group.Dispose());
        foreach (var parameter in _parameters.Concat(_buffers))
        {
            parameter.Release();
        }

        foreach (var child in _children)
        {
            child.Dispose();
        }
    }

    /// <summary>Adds a child under a local name and returns it.</summary>
    protected T Add<T>(string name, T child)
        where T : Module
    {
        child.Name = name;
        child.Parent = this;
        _children.Insert(_children.Count - _listedLast, child);
        return child;
    }

    /// <summary>Takes away a child that was added; what it computes with is freed.</summary>
    private protected void Remove(Module child)
    {
        _children.Remove(child);
        child.Parent = null;
        foreach (var parameter in child.Parameters)
        {
            parameter.Release();
        }
    }

    /// <summary>Adds a child that is listed after all others, also after those that are added later.</summary>
    protected T AddLast<T>(string name, T child)
        where T : Module
    {
        Add(name, child);
        _listedLast++;
        return child;
    }

    /// <summary>Adds children under their local names; entries without a module are left out.</summary>
    protected void AddAll(IEnumerable<(string Name, Module? Module)> tree)
    {
        foreach (var (name, module) in tree)
        {
            if (module is not null)
            {
                Add(name, module);
            }
        }
    }

    /// <summary>Takes all children out of the tree; they stay as they are.</summary>
    protected void RemoveChildren() => _children.Clear();

    /// <summary>Adds a parameter under a local name and returns it.</summary>
    /// <param name="name">Local name, such as <c>weight</c>.</param>
    /// <param name="shape">Sizes, outermost first.</param>
    /// <param name="keepsFloat32">Whether it stays float32 whatever type the model computes in.</param>
    protected Parameter AddParameter(string name, IReadOnlyList<long> shape, bool keepsFloat32 = false)
    {
        var parameter = new Parameter(name, shape) { KeepsFloat32 = keepsFloat32 };
        _parameters.Add(parameter);
        return parameter;
    }

    /// <summary>Adds what files hold beside parameters, float32 whatever type the model computes in, and returns it.</summary>
    /// <param name="name">Local name.</param>
    /// <param name="shape">Sizes, outermost first.</param>
    protected Parameter AddBuffer(string name, IReadOnlyList<long> shape)
    {
        var buffer = new Parameter(name, shape) { KeepsFloat32 = true };
        _buffers.Add(buffer);
        return buffer;
    }

    /// <summary>Computes layers that share an input as one product; their weights become views of one tensor when they are loaded.</summary>
    /// <param name="members">Layers in the order of their columns in the output.</param>
    protected LinearGroup Group(params Linear[] members)
    {
        var group = new LinearGroup(members);
        _groups.Add(group);
        return group;
    }

    /// <summary>Takes the children and parameters of another module over, so that they stand directly below this one.</summary>
    protected void Adopt(Module other)
    {
        ArgumentNullException.ThrowIfNull(other);
        foreach (var child in other._children)
        {
            Add(child.Name, child);
        }

        _parameters.AddRange(other._parameters);
        _buffers.AddRange(other._buffers);
        _groups.AddRange(other._groups);
    }

    private static string Join(string path, string name) => path.Length == 0 ? name : $"{path}.{name}";
}

/// <summary>A parameter with its full path and the module that holds it.</summary>
/// <param name="Path">Full name, such as <c>model.norm.weight</c>.</param>
/// <param name="Parameter">The parameter.</param>
/// <param name="Module">The module it belongs to.</param>
public readonly record struct NamedParameter(string Path, Parameter Parameter, Module Module);

/// <summary>A module that computes nothing of its own and stands in the tree because transformers lists it.</summary>
/// <param name="className">Such as <c>Identity</c>.</param>
public sealed class Placeholder(string className) : Module(className);

/// <summary>An ordered list of modules named by their index, such as a stack of decoder layers.</summary>
/// <typeparam name="T">Type of the entries.</typeparam>
public sealed class ModuleList<T> : Module
    where T : Module
{
    private readonly List<T> _items = [];

    /// <summary>Adds entries under <c>0</c>, <c>1</c>, ….</summary>
    public ModuleList(IEnumerable<T> entries)
        : base("ModuleList") => Replace(entries);

    /// <summary>The entries in order.</summary>
    public IReadOnlyList<T> Items => _items;

    /// <summary>Makes another entry like the one in a place, by shape alone; null where nothing says how.</summary>
    internal Func<int, T>? Make { get; init; }

    /// <summary>Puts other entries in the place of those there are, which aren't freed.</summary>
    /// <param name="entries">Named by their place.</param>
    internal void Replace(IEnumerable<T> entries)
    {
        T[] all = [.. entries];
        RemoveChildren();
        _items.Clear();
        foreach (var entry in all)
        {
            _items.Add(Add(_items.Count.ToString(System.Globalization.CultureInfo.InvariantCulture), entry));
        }
    }
}
