using System.Buffers;
using System.Text.RegularExpressions;
using Peft.Adapters.Asking;
using Peft.Adapters.Files;
using Peft.Adapters.Methods.Lora;
using Peft.Models;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Adapters.Model;

/// <summary>Makes adapters for a model; what it makes is attached to nothing yet.</summary>
internal static class AdapterFactory
{
    private const int LongestName = 80;

    /// <summary>What the model without adapters is called where adapters are chosen by name.</summary>
    internal const string BaseName = "base";

    private static readonly Regex s_devices = new("^(con|prn|aux|nul|conin\\$|conout\\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])$", RegexOptions.IgnoreCase | RegexOptions.CultureInvariant, TimeSpan.FromSeconds(1));

    /// <summary>A name becomes part of the keys of a file, and a folder on any system.</summary>
    private static readonly SearchValues<char> s_notInNames = SearchValues.Create("./\\:*?\"<>|");

    /// <summary>Makes a new adapter with its starting values.</summary>
    /// <param name="model">The model.</param>
    /// <param name="config">The configuration.</param>
    /// <param name="name">The adapter's name.</param>
    /// <param name="seed">Makes the starting values repeatable; null draws another start each time.</param>
    public static PeftAdapter Create(PeftModel model, AdapterConfig config, string name, ulong? seed)
    {
        List<string> messages = [];
        return Make(model, config.ForNew(model.Base), name, messages, adapter =>
        {
            adapter.RefuseNew();
            if (!model.IsStructureOnly)
            {
                using var generator = seed is { } given ? new Generator(given) : new Generator((ulong)System.Random.Shared.NextInt64());
                adapter.Initialise(generator, static _ => true);
            }

            return new PeftAdapter(model, adapter, null, new LoadReport([], [], messages)) { Start = ((config as LoraConfig)?.Start?.Asked ?? config, seed) };
        });
    }

    /// <summary>Makes an adapter with the values of a folder.</summary>
    /// <param name="model">The model.</param>
    /// <param name="folder">The folder.</param>
    /// <param name="name">The adapter's name.</param>
    /// <param name="messages">What the user should know already.</param>
    public static PeftAdapter Load(PeftModel model, string folder, string name, List<string> messages)
    {
        var config = AdapterConfig.FromFolder(folder);
        config.Validate();
        using var file = AdapterFile.Open(folder);
        (config, var tensors) = config.ForFile(file, model.Base);
        return Load(model, config, tensors, name, folder, messages, () => FormOf(folder, messages));
    }

    /// <summary>Makes an adapter with the values of tensors under PEFT's keys, wherever they come from.</summary>
    /// <param name="model">The model.</param>
    /// <param name="config">The configuration.</param>
    /// <param name="tensors">The tensors.</param>
    /// <param name="name">The adapter's name.</param>
    /// <param name="path">The folder or file that they come from.</param>
    /// <param name="messages">Takes what the user should know.</param>
    /// <param name="form">How it wants to be asked; null where nothing says it.</param>
    public static PeftAdapter Load(
        PeftModel model, AdapterConfig config, TensorStore tensors, string name, string path, List<string> messages, Func<PromptForm?>? form = null) =>
        Make(model, config, name, messages, adapter =>
        {
            using var generator = new Generator(0);
            var report = model.IsStructureOnly ? new LoadReport([], [], messages) : AdapterFile.Load(adapter, tensors, model.Base, generator, messages);
            return new PeftAdapter(model, adapter, path, report) { PromptForm = form?.Invoke(), Provenance = path is null ? null : Provenance.Load(path) };
        });

    /// <summary>The form beside an adapter. A broken one is no reason to do without the adapter.</summary>
    private static PromptForm? FormOf(string folder, List<string> messages)
    {
        try
        {
            return PromptForm.Load(folder);
        }
        catch (PeftException error)
        {
            messages.Add($"How the adapter wants to be asked can't be read: {error.Message}");
            return null;
        }
    }

    private static PeftAdapter Make(PeftModel model, AdapterConfig config, string name, List<string> messages, Func<Adapter, PeftAdapter> fill)
    {
        RefuseName(name);
        RefuseOtherCase(model, name);
        config.Validate();
        if (config.UnknownKeys is { Count: > 0 } unknown)
        {
            messages.Add($"{AdapterConfig.FileName} has keys that are not known here and say nothing: {string.Join(", ", unknown)}. A later release may have written it.");
        }

        var adapter = (config with { BaseModelName = config.BaseModelName ?? model.Path ?? model.Name }).CreateAdapter(name);
        adapter.BaseDigest = model.Base.Digest ??= ModelDigest.Of(model.Base);
        adapter.Vocabulary = model.Vocabulary;
        try
        {
            using var noGradients = no_grad();
            adapter.EditStructure(model.Base, model.Adapters.Count > 0);
            adapter.Declare(model.Base, messages);
            return fill(adapter);
        }
        catch
        {
            adapter.Dispose();
            throw;
        }
    }

    private static void RefuseOtherCase(PeftModel model, string name)
    {
        if (model.Adapters.FirstOrDefault(adapter => adapter.Name != name && adapter.Name.Equals(name, StringComparison.OrdinalIgnoreCase)) is { } other)
        {
            throw new PeftException("AdapterNameInvalid", $"'{name}' differs from the adapter '{other.Name}' by case alone; the two would be one folder on many systems.")
            {
                Target = name,
                RecommendedAction = "Choose another name, or spell it as that adapter's to replace it.",
            };
        }
    }

    private static void RefuseName(string name)
    {
        // An adapter is a folder by its name, which has to be one on every system that it may be copied to.
        var isFolder = !string.IsNullOrWhiteSpace(name) && name == name.Trim() && name.Length <= LongestName && !VisibleText.IsNeeded(name) && !s_devices.IsMatch(name);
        if (!isFolder || name == AdapterSelection.BaseRow || name.Equals(BaseName, StringComparison.OrdinalIgnoreCase) || name.AsSpan().ContainsAny(s_notInNames))
        {
            throw new PeftException("AdapterNameInvalid", $"'{name}' can't be the name of an adapter: it must not be empty, longer than {LongestName} characters or a device of Windows such as NUL, begin or end with a blank, hold a dot, a slash, a control character or one of : * ? \" < > |, or be {AdapterSelection.BaseRow} or {BaseName}, which stand for the model without adapters.")
            {
                Target = name,
                RecommendedAction = "Choose a name of letters, digits, - and _.",
            };
        }
    }
}
