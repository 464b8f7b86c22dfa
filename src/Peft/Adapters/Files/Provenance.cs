using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Files;

namespace Peft.Adapters.Files;

/// <summary>
/// Where an adapter comes from: what was trained, from what base, on what data, with what settings and by what. It is saved beside the adapter, for programs as
/// <see cref="FileName"/> and for people as the model card <see cref="CardName"/>, and a training can be repeated from it.
/// </summary>
public sealed record Provenance
{
    /// <summary>The file beside the adapter.</summary>
    public const string FileName = "provenance.json";

    /// <summary>The model card beside the adapter, as the hub shows it.</summary>
    public const string CardName = "README.md";

    /// <summary>By which a card of ours is told from one that somebody wrote.</summary>
    private const string Mark = "<!-- Written by Peft from provenance.json; a card without this line is left alone. -->";

    /// <summary>The adapter's name.</summary>
    public required string Adapter { get; init; }

    /// <summary>Folder or hub name of the base model.</summary>
    public string? Base { get; init; }

    /// <summary>Digest of the base's weights, by its norms, biases and embeddings; null where it isn't known.</summary>
    public string? BaseDigest { get; init; }

    /// <summary>The adapter's configuration as it was asked for; null where the training began with an adapter that was trained before, so that it can't be repeated from here.</summary>
    public JsonObject? Config { get; init; }

    /// <summary>Seed of the starting values; null where they were drawn anew.</summary>
    public ulong? StartSeed { get; init; }

    /// <summary>Digest of the rows as they were learnt.</summary>
    public required string Data { get; init; }

    /// <summary>Number of rows.</summary>
    public required int Rows { get; init; }

    /// <summary>Names of the classes of the base's head, by number; empty where it has none.</summary>
    public IReadOnlyList<string> Labels { get; init; } = Values.Of<string>([]);

    /// <summary>What was made small.</summary>
    public required string Objective { get; init; }

    /// <summary>The training's options, with what the machine decided.</summary>
    public required JsonObject Options { get; init; }

    /// <summary>Processor, engine and threads: results are the same bit for bit on the same ones.</summary>
    public required string Engine { get; init; }

    /// <summary>Steps made, and the last one's loss.</summary>
    public required (int Steps, double Loss) Result { get; init; }

    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Objective} on {Rows:N0} rows of {Data[..Math.Min(Data.Length, 12)]}");

    /// <summary>Saves it into an adapter's folder, with the card, unless somebody wrote one.</summary>
    /// <param name="folder">The folder.</param>
    public void Save(string folder)
    {
        JsonFile.Write(Path.Combine(folder, FileName), new JsonObject
        {
            ["adapter"] = Adapter,
            ["base"] = Base,
            ["base_digest"] = BaseDigest,
            ["config"] = Config?.DeepClone(),
            ["start_seed"] = StartSeed,
            ["data_digest"] = Data,
            ["rows"] = Rows,
            ["labels"] = new JsonArray([.. Labels.Select(static name => (JsonNode?)name)]),
            ["objective"] = Objective,
            ["options"] = Options.DeepClone(),
            ["engine"] = Engine,
            ["steps"] = Result.Steps,
            ["loss"] = Result.Loss,
        });
        var card = Path.Combine(folder, CardName);
        if (!File.Exists(card) || File.ReadAllText(card).Contains(Mark, StringComparison.Ordinal))
        {
            AtomicFile.WriteText(card, Card());
        }
    }

    /// <summary>Reads it from an adapter's folder; null where none was saved, or it is broken.</summary>
    /// <param name="folder">The folder.</param>
    public static Provenance? Load(string folder)
    {
        var path = Path.Combine(folder, FileName);
        if (!File.Exists(path))
        {
            return null;
        }

        try
        {
            return Read(JsonFile.ReadNode(path));
        }
        catch (Exception error) when (error is PeftException or InvalidOperationException or FormatException)
        {
            // An adapter is whole without it.
            return null;
        }
    }

    private static Provenance? Read(JsonObject json) =>
        json["data_digest"] is null || json["options"] is not JsonObject options ? null : new Provenance
        {
            Adapter = (string?)json["adapter"] ?? "default",
            Base = (string?)json["base"],
            BaseDigest = (string?)json["base_digest"],
            Config = json["config"]?.DeepClone() as JsonObject,
            StartSeed = (ulong?)json["start_seed"],
            Data = (string)json["data_digest"]!,
            Rows = (int?)json["rows"] ?? 0,
            Labels = Values.Of((json["labels"] as JsonArray ?? []).Select(static name => (string?)name ?? "")),
            Objective = (string?)json["objective"] ?? "",
            Options = (JsonObject)options.DeepClone(),
            Engine = (string?)json["engine"] ?? "",
            Result = ((int?)json["steps"] ?? 0, (double?)json["loss"] ?? double.NaN),
        };

    /// <summary>What is another than it was, in words, so that a training wouldn't be repeated; null for nothing.</summary>
    /// <param name="adapter">The new adapter.</param>
    /// <param name="data">Digest of the rows.</param>
    /// <param name="rows">Number of rows.</param>
    public string? Other(PeftAdapter adapter, string data, int rows) =>
        Data != data ? string.Create(CultureInfo.InvariantCulture, $"the data ({rows} rows here, {Rows} there, or other texts)")
        : BaseDigest is { } digest && adapter.Adapter.BaseDigest is { } own && digest != own ? "the base model" : null;

    /// <summary>The card: what the hub reads in front, what a person reads behind.</summary>
    private string Card()
    {
        var text = new StringBuilder("---\n");
        if (Base is not null)
        {
            text.Append(CultureInfo.InvariantCulture, $"base_model: {Base}\n");
        }

        text.Append(CultureInfo.InvariantCulture, $"library_name: peft\ntags:\n- {((string?)Config?["peft_type"] ?? "lora").ToLowerInvariant()}\n---\n{Mark}\n\n# {Adapter}\n\n");
        text.Append(CultureInfo.InvariantCulture, $"An adapter of {Base ?? "a base model"}, trained with Peft ({Objective}) for {Result.Steps} steps on {Rows} rows; the last loss was {Result.Loss:G5}.\n\n| | |\n| --- | --- |\n");
        Row("Base", $"{Base} (digest {BaseDigest ?? "unknown"})");
        Row("Data", $"{Rows} rows (digest {Data})");
        Row("Start", Config is null ? "an adapter that was trained before" : StartSeed is { } seed ? $"seed {seed}" : "drawn anew");
        Row("Engine", Engine);
        text.Append(CultureInfo.InvariantCulture, $"\n## Settings\n\n```json\n{Options.ToJsonString(JsonFile.WriteOptions)}\n```\n");
        if (Config is not null)
        {
            text.Append(CultureInfo.InvariantCulture, $"\n## Repeat\n\n`Invoke-LoraTraining -From` this folder, with the same base and data, gives the same adapter bit for bit on the same engine and number of threads.\n");
        }

        return text.ToString();

        void Row(string name, string value) => text.Append(CultureInfo.InvariantCulture, $"| {name} | {value} |\n");
    }
}
