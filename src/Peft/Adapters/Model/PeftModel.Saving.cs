using Peft.Adapters.Conversion;
using Peft.Adapters.Files;
using Peft.Adapters.Methods.Lora;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Model;

/// <content>Files of the model and of its adapters.</content>
public sealed partial class PeftModel
{
    /// <summary>Saves an adapter into a folder as PEFT does. One whose start data took out of the base (CorDA, LoRA-GA) is saved as the plain LoRA, of twice the rank, that does the same on the base as it was loaded.</summary>
    /// <param name="name">The adapter's name.</param>
    /// <param name="folder">The folder; made when it isn't there.</param>
    /// <param name="embeddings">Whether the weights of adapted embeddings and output layers are saved too; null for when the configuration names them.</param>
    /// <param name="layout">How LoRA on experts is written.</param>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, <c>NotAFolder</c>, or what writing throws.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>AdapterFormatNotSupported</c>: the layout can't hold the adapter.</exception>
    public void SaveAdapter(string name, string folder, bool? embeddings = null, AdapterLayout layout = AdapterLayout.Fused)
    {
        using var held = Acquire("saving an adapter");
        var adapter = this[name];
        if (adapter.Config is LoraConfig { LosesItsStart: true })
        {
            AdapterConversion.SaveAsLora(this, name, folder);
        }
        else
        {
            AdapterFile.Save(adapter.Adapter, folder, embeddings, layout == AdapterLayout.PerExpert ? Base : null);
        }

        adapter.LiesIn(folder);
    }

    /// <summary>Saves several adapters as PEFT does: <c>default</c> into the folder itself, every other one into a subfolder of its name.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="names">The adapters; null for all.</param>
    /// <exception cref="PeftException">As <see cref="SaveAdapter"/>; nothing is written when a name is unknown.</exception>
    public void SaveAdapters(string folder, IEnumerable<string>? names = null)
    {
        foreach (var adapter in (names ?? Adapters.Select(static adapter => adapter.Name)).Select(name => this[name]).ToArray())
        {
            SaveAdapter(adapter.Name, adapter.Name == "default" ? folder : System.IO.Path.Combine(folder, adapter.Name));
        }
    }

    /// <summary>Saves the base as it is now, with what is merged into it, its configuration, generation defaults and tokenizer.</summary>
    /// <param name="folder">The folder; made when it isn't there.</param>
    /// <param name="dataType">Type to save in; null for each weight's own.</param>
    /// <param name="maxShardBytes">Maximum size of a file of weights, in bytes.</param>
    /// <param name="onProgress">Sees the bytes of weights that are written, and how many there are.</param>
    /// <param name="cancellation">Looked at after each tensor; what was in the folder stays as it was.</param>
    /// <returns>Paths of the model's files.</returns>
    /// <exception cref="PeftException"><c>NotAFolder</c>, <c>WeightsNotLoaded</c>, or what writing throws.</exception>
    public IReadOnlyList<string> Save(string folder, ScalarType? dataType = null, long maxShardBytes = ModelLoader.DefaultShardBytes, Action<long, long>? onProgress = null, CancellationToken cancellation = default)
    {
        using var held = Acquire("saving the model");
        return ModelFiles.Save(this, folder, dataType, maxShardBytes, onProgress, cancellation);
    }

    /// <summary>Saves the model as it is now as one GGUF file for llama.cpp, with its tokenizer and chat template, and an Ollama Modelfile beside it.</summary>
    /// <param name="path">The <c>.gguf</c> file.</param>
    /// <param name="type">How weights are stored, such as <c>Q4_K_M</c>, <c>Q8_0</c> or <c>F16</c>.</param>
    /// <param name="onProgress">Sees the bytes of weights that are written, and how many there are.</param>
    /// <param name="onMessage">Hears what the file can't say.</param>
    /// <param name="importance">By how much errors count in each column of a weight, by its path, which blocks of 256 numbers take heed of: mean squared inputs; null where they aren't known.</param>
    /// <param name="cancellation">Looked at before each tensor; a file that was there stays as it was.</param>
    /// <returns>Paths of the files written.</returns>
    /// <exception cref="NotSupportedByPeftException"><c>GgufArchitectureNotSupported</c>, <c>GgufTypeNotSupported</c>, <c>GgufTokenizerNotSupported</c>, <c>GgufTensorNotSupported</c> or <c>GgufRotaryNotSupported</c>; nothing is written.</exception>
    public IReadOnlyList<string> SaveGguf(
        string path, string type, Action<long, long>? onProgress = null, Action<string>? onMessage = null, IReadOnlyDictionary<string, float[]>? importance = null, CancellationToken cancellation = default)
    {
        using var held = Acquire("saving the model");
        return GgufFiles.Save(this, path, type, onProgress, onMessage, importance, cancellation);
    }
}
