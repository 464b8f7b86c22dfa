using Peft.Models.Layers;

namespace Peft.Models;

/// <summary>A place in the tree for layers that whoever made it computes with.</summary>
internal sealed class Branch : Module
{
    /// <summary>Makes a branch.</summary>
    /// <param name="className">transformers' class name, such as <c>GPTNeoXMLP</c>.</param>
    /// <param name="tree">What stands below it, in transformers' order; entries without a module are left out.</param>
    public Branch(string className, params IReadOnlyList<(string Name, Module? Module)> tree)
        : base(className)
    {
        AddAll(tree);
    }

    /// <summary>Computes layers below this branch that share an input as one product.</summary>
    /// <param name="members">Layers in the order of their columns in the output.</param>
    public LinearGroup Joining(params Linear[] members) => Group(members);
}
