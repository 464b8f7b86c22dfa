namespace Peft.Models.Heads;

/// <summary>A backbone without a head: its modules stand at the root.</summary>
public sealed class FeatureModel : PretrainedModel
{
    /// <summary>Makes the model.</summary>
    /// <param name="backbone">The backbone.</param>
    /// <param name="className">transformers' class name, such as <c>LlamaModel</c>.</param>
    public FeatureModel(Backbone backbone, string className)
        : base(backbone, className)
    {
        Adopt(backbone);
    }
}
