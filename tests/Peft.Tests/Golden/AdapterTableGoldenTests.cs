using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Tests.Adapters;

namespace Peft.Tests.Golden;

/// <summary>Older file layouts, and what the peer refuses or takes.</summary>
[Trait("Category", "Golden")]
public class AdapterTableGoldenTests
{
    public static IEnumerable<object[]> Formats() => Rows("formats/formats.json", static _ => true);

    public static IEnumerable<object[]> Configurations() => Rows("errors.json", HasConfiguration);

    public static IEnumerable<object[]> Files() => Rows("errors.json", HasFiles);

    public static IEnumerable<object[]> Unrepeatable() => Rows("errors.json", static row => !HasConfiguration(row) && !HasFiles(row));

    [SkippableTheory]
    [MemberData(nameof(Formats))]
    public void An_older_layout_computes_the_same(int index, string name) => Run("formats/formats.json", index, name, (table, row) =>
    {
        var folder = AdapterGolden.PathOf(Path.Combine((string)row["folder"]!, (string?)row["load_arguments"]!["subfolder"] ?? ""));
        using var model = AdapterGolden.Base((string)table["base"]!);
        model.LoadAdapter(folder);
        HoldLogits(model, AdapterGolden.PathOf((string)(row["error"] is null ? row["folder"] : table["reference"])!), table["tolerance"]!);
    });

    [SkippableTheory]
    [MemberData(nameof(Configurations))]
    public void A_configuration_is_taken_or_refused_as_by_the_peer(int index, string name) => Run("errors.json", index, name, (_, row) =>
    {
        using var model = AdapterGolden.Base("bases/" + (string)row["base"]!);
        Hold(row, () => model.AddAdapter(AdapterConfig.FromJson((JsonObject)row["configuration"]!.DeepClone())));
    });

    [SkippableTheory]
    [MemberData(nameof(Files))]
    public void A_damaged_file_is_taken_or_refused_as_by_the_peer(int index, string name) => Run("errors.json", index, name, (_, row) =>
    {
        using var model = AdapterGolden.Base((string)Table("formats/formats.json")!["base"]!);
        var folder = AdapterGolden.PathOf((string)row["folder"]!);
        var adapter = Hold(row, () => model.LoadAdapter(folder, row["missing_keys"] is null ? null : "second"));
        if (adapter is null)
        {
            return;
        }

        if (row["missing_keys"] is JsonArray missing && !IsReadMoreWidely(folder))
        {
            Assert.Equal(AdapterGolden.Strings(missing).Select(static key => key.Replace(".second", "", StringComparison.Ordinal)), adapter.Report.Missing.Order(StringComparer.Ordinal));
            Assert.Equal(AdapterGolden.Strings(row["unexpected_keys"]), adapter.Report.Unexpected);
        }

        // What the peer finds nothing in computes as the base there; here its keys are found.
        var foundMore = adapter.Report.Missing.Count == 0 && (row["loads_as_base"] is not null || row["missing_keys"] is JsonArray { Count: > 0 });
        if (!foundMore && File.Exists(Path.Combine(folder, "io.safetensors")))
        {
            HoldLogits(model, folder, new JsonObject { ["atol"] = 2e-5, ["rtol"] = 1e-5 });
        }
    });

    /// <summary>Rows that tell what the peer did in words alone, or whose configuration the peer's class refused and so didn't record: unit tests say these.</summary>
    [SkippableTheory]
    [MemberData(nameof(Unrepeatable))]
    public void A_row_that_does_not_record_its_input(int index, string name) =>
        Skip.If(true, index < 0 ? "no such table in this set" : $"{name}: the row holds neither a configuration nor a folder to try.");

    private static bool HasConfiguration(JsonObject row) => row["configuration"] is JsonObject configuration && configuration["refused_by"] is null;

    private static bool HasFiles(JsonObject row) => row["folder"] is not null && IsPlainLoad((string)row["how"]!);

    private static PeftAdapter? Hold(JsonObject row, Func<PeftAdapter> act)
    {
        if (row["error"] is not JsonObject refusal)
        {
            return act();
        }

        try
        {
            act();
            Assert.Fail($"accepted, where the peer says: {refusal["message"]}");
        }
        catch (NotSupportedByPeftException error) when ((string)refusal["type"]! == "KeyError")
        {
            Assert.NotEmpty(error.Message);
        }
        catch (PeftException error) when (error is not NotSupportedByPeftException)
        {
            Assert.NotEmpty(error.Message);
        }

        return null;
    }

    private static void HoldLogits(PeftModel model, string folder, JsonNode tolerance)
    {
        var io = AdapterGolden.Tensors(Path.Combine(folder, "io.safetensors"));
        using var logits = ModelRun.Logits(model, io);
        AdapterGolden.AssertClose(io["logits"], logits, tolerance, "logits");
        AdapterGolden.Free(io);
    }

    /// <summary>The peer loads keys with the name left in into an adapter of that name alone, and none without its prefix; here any adapter may have them.</summary>
    private static bool IsReadMoreWidely(string folder)
    {
        using var file = Peft.Tensors.TensorStore.OpenFolder(folder, "adapter_model");
        return file.Names.Any(static name => name.Contains(".default", StringComparison.Ordinal) || !name.StartsWith("base_model.", StringComparison.Ordinal));
    }

    private static bool IsPlainLoad(string how) =>
        how.StartsWith("PeftModel.from_pretrained(folder)", StringComparison.Ordinal) || how.StartsWith("load_adapter(folder", StringComparison.Ordinal)
        || how.StartsWith("the weights file", StringComparison.Ordinal) || how.Contains("pickle calls", StringComparison.Ordinal);

    private static IEnumerable<object[]> Rows(string table, Predicate<JsonObject> wanted) =>
        (Table(table)?["rows"] as JsonArray ?? [])
            .Select(static (row, index) => (Row: (JsonObject)row!, Index: index))
            .Where(entry => wanted(entry.Row))
            .Select(static entry => new object[] { entry.Index, (string)entry.Row["name"]! })
            .DefaultIfEmpty([-1, ""]);

    private static void Run(string table, int index, string name, Action<JsonObject, JsonObject> body)
    {
        Skip.If(index < 0, "no such table in this set");
        GoldenCases.Run(AdapterGolden.Domain, name, _ => body(Table(table)!, (JsonObject)Table(table)!["rows"]![index]!));
    }

    private static JsonObject? Table(string relative)
    {
        var path = GoldenCases.DomainFolder(AdapterGolden.Domain) is { } folder ? Path.Combine(folder, relative) : "";
        return File.Exists(path) ? AdapterGolden.Read(path) : null;
    }
}
