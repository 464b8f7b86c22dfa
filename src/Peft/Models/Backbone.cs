using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>What a family is made of between token ids and the last hidden states; heads are generic over it.</summary>
public abstract class Backbone : Module
{
    /// <summary>Wraps a configuration.</summary>
    /// <param name="config">The configuration as the family reads it.</param>
    /// <param name="className">transformers' class name, such as <c>LlamaModel</c>.</param>
    protected Backbone(ModelConfig config, string className)
        : base(className)
    {
        Config = config;
    }

    /// <summary>The configuration.</summary>
    public ModelConfig Config { get; }

    /// <summary>Width of the hidden states.</summary>
    public abstract long Width { get; }

    /// <summary>The table of token vectors, which an output layer may share; null for a model that reads something else.</summary>
    public virtual Embedding? TokenEmbeddings => null;

    /// <summary>
    /// Key and value heads and their width, of the widest layer where they differ: what a prefix has a place for. Null for what the
    /// configuration's <c>num_key_value_heads</c> and <c>head_dim</c> say.
    /// </summary>
    public virtual (long Heads, long Size)? KeyValueShape => null;

    /// <summary>Whether it reads images (<see cref="ModelInputs.Pixels"/>).</summary>
    public bool ReadsImages => Image is not null;

    /// <summary>The images that it reads; null where it reads tokens.</summary>
    public virtual Architectures.VisionShape? Image => null;

    /// <summary>What its layers call attention, where that offers its rotated queries to <see cref="VirtualPrompt.Gated"/>; null where it doesn't.</summary>
    public virtual string? GatedPromptTarget => null;

    /// <summary>Parameters below this backbone that share the weights of others, by their paths from here: the second follows the first.</summary>
    public virtual IEnumerable<(string Owner, string Follower)> TiedParameters => [];

    /// <summary>
    /// Whether what a cache holds of a shorter row is right for a longer one. Where it isn't (rotary positions that turn otherwise beyond a
    /// length), the cache has to be cleared and the whole row given again.
    /// </summary>
    /// <param name="from">Number of positions in the cache.</param>
    /// <param name="to">Number of positions with those to come.</param>
    public virtual bool CanContinue(long from, long to) => true;

    /// <summary>
    /// Puts blocks in the place of those there are: today's, in another order, some several times over. What stands there again shares the
    /// weights of the first, has slots of its own and remembers positions of its own.
    /// </summary>
    /// <param name="sources">Which of today's blocks stands in each place.</param>
    /// <returns>Puts today's blocks back.</returns>
    /// <exception cref="NotSupportedByPeftException"><c>LayersNotReplicable</c>: the family has no code for it.</exception>
    public virtual Action ReplicateLayers(IReadOnlyList<int> sources) =>
        throw new NotSupportedByPeftException("LayersNotReplicable", $"Blocks of {ClassName} can't be repeated.")
        {
            RecommendedAction = "Use a decoder of the Llama line or BERT, or an adapter without layer_replication.",
        };

    /// <summary>Vectors of tokens before anything is added to them: what prompt methods put virtual tokens in front of.</summary>
    /// <param name="inputs">The inputs, with their ids.</param>
    /// <param name="context">The forward pass, with its rows and length.</param>
    /// <returns>[rows · length, width].</returns>
    public virtual Tensor Embed(ModelInputs inputs, ForwardContext context) => TokenEmbeddings!.Forward(inputs.RequiredIds, context);

    /// <summary>The pass from vectors to the last hidden states.</summary>
    /// <param name="embeddings">[rows · length, width]; in training known to the tape.</param>
    /// <param name="inputs">What else goes in (token types, decoder ids).</param>
    /// <param name="context">The forward pass: its rows and length count virtual tokens.</param>
    public abstract BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context);
}
