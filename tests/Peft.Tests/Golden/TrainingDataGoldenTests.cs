using System.Text.Json;
using Peft.Files;
using Peft.Tensors;
using Peft.Tokenization;
using Peft.Training;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>Examples, packing and batches as TRL and transformers make them, token for token.</summary>
public class TrainingDataGoldenTests
{
    [GoldenTheory]
    [GoldenData("training", "data/")]
    public void Data(string path) => GoldenCases.Run("training", path, folder =>
    {
        var expected = JsonFile.ReadObject(Path.Combine(folder, "case.json"));
        if (expected.TryGetProperty("packed", out var packed))
        {
            ComparePacking(expected, packed);
        }
        else if (expected.TryGetProperty("collated", out var collated))
        {
            CompareCollators(expected.GetProperty("arguments"), collated);
        }
        else if (expected.TryGetProperty("converted", out var converted))
        {
            CompareConversion(expected, converted);
        }
        else if (expected.TryGetProperty("assistant_masks", out var masks))
        {
            CompareMasks(folder, expected, masks);
        }
        else
        {
            ComparePreparation(folder, expected);
        }
    });

    /// <summary>The batches that the peer's trainer made of the same rows, epoch after epoch.</summary>
    [GoldenTheory]
    [GoldenData("training", "sft/")]
    public void BatchesOfTrainings(string path) => GoldenCases.Run("training", path, folder =>
    {
        const int PeersBatchSize = 3, PeersMaxLength = 1024;
        var expected = JsonFile.ReadObject(Path.Combine(folder, "case.json"));
        var arguments = expected.GetProperty("arguments").GetProperty("training");
        var data = Dataset(expected, arguments).Tokenize(TokenizerOf(folder, expected), OptionsOf(arguments) with
        {
            MaxLength = Optional(arguments, "max_length")?.GetInt32() ?? PeersMaxLength,
        });
        var count = CompareBatches(Path.Combine(folder, "batches.safetensors"), data, Optional(arguments, "per_device_train_batch_size")?.GetInt32() ?? PeersBatchSize);
        Assert.True(count > 0);
    });

    /// <summary>The batches that the peer's preference trainers made of the same rows.</summary>
    [GoldenTheory]
    [GoldenData("training", "preference/")]
    public void BatchesOfPreferences(string path) => GoldenCases.Run("training", path, folder =>
    {
        var expected = JsonFile.ReadObject(Path.Combine(folder, "case.json"));
        var runner = expected.GetProperty("runner").GetString()!;
        if (Optional(expected, "rows") is not { } rows || Optional(expected, "batches") is not { } batches)
        {
            // Nothing is said of the rows: the batches are those of another case.
            return;
        }

        var settings = expected.GetProperty("settings");
        var data = TrainingDataset.FromRows(Rows(rows)).Tokenize(TokenizerOf(folder, expected), new TokenizationOptions
        {
            Examples = runner == "trl.KTOTrainer" ? ExampleKind.Judged : ExampleKind.Pair,
            MaxLength = settings.GetProperty("max_length").GetInt32(),
        });
        var file = Path.Combine(folder, batches.GetString()!);
        var batchSize = settings.GetProperty("per_device_train_batch_size").GetInt32();
        Assert.True((runner is "trl.ORPOTrainer" or "trl.CPOTrainer" ? CompareSides(file, data, batchSize) : CompareBatches(file, data, batchSize)) > 0);
    });

    /// <summary>The peer's trainers without a reference give both answers apart, and put a start token in front that the tokenizer doesn't.</summary>
    private static int CompareSides(string file, TokenizedDataset data, int batchSize)
    {
        using var reference = SafetensorsFile.Open(file);
        var count = reference.Names.Select(name => name.Split('.')[0]).Distinct().Count();
        int[][] batches = [.. Enumerable.Range(0, data.Count).Chunk(batchSize)];
        for (var i = 0; i < count; i++)
        {
            TrainingExample[] examples = [.. batches[i % batches.Length].Select(row => data.Examples[row])];
            Compare($"{i}.chosen", [.. examples.Select(example => new TokenRow(example.InputIds, example.Labels))]);
            Compare($"{i}.rejected", [.. examples.Select(example => example.Rejected!)]);
        }

        return count;

        void Compare(string prefix, TokenRow[] rows)
        {
            using var scope = NewDisposeScope();
            (var ids, var labels) = (reference.Read($"{prefix}_input_ids"), reference.Read($"{prefix}_labels"));
            for (var row = 0; row < rows.Length; row++)
            {
                var length = rows[row].InputIds.Length;
                Assert.Equal(rows[row].InputIds.Select(id => (long)id), ids[row].narrow(0, 1, length).data<long>().ToArray());
                Assert.Equal(rows[row].Labels.Select(label => (long)label), labels[row].narrow(0, 1, length).data<long>().ToArray());
            }
        }
    }

    private static TokenizationOptions OptionsOf(JsonElement arguments) => new()
    {
        MaxLength = Optional(arguments, "max_length")?.GetInt32(),
        Packing = Strategy(arguments),
        PaddingFree = Optional(arguments, "padding_free")?.GetBoolean() ?? false,
        PadToMultipleOf = Optional(arguments, "pad_to_multiple_of")?.GetInt32(),
    };

    private static void ComparePreparation(string folder, JsonElement expected)
    {
        var arguments = expected.GetProperty("arguments");
        var options = OptionsOf(arguments);
        var dataset = Dataset(expected, arguments);
        if (expected.GetProperty("prepared").GetProperty("input_ids").GetArrayLength() == 0)
        {
            // The peer goes on with no rows at all; here that is an error.
            Assert.Equal("DatasetAllMasked", Assert.Throws<PeftException>(() => dataset.Tokenize(TokenizerOf(folder, expected), options)).ErrorId);
            return;
        }

        var data = dataset.Tokenize(TokenizerOf(folder, expected), options);
        foreach (var column in expected.GetProperty("prepared").EnumerateObject())
        {
            IEnumerable<IEnumerable<int>> actual = column.Name switch
            {
                "input_ids" => data.Rows.Select(row => row.InputIds),
                "labels" => data.Rows.Select(row => row.Labels),
                "seq_lengths" => data.Rows.Select(row => row.Lengths!),
                _ => throw new InvalidDataException($"unknown column {column.Name}"),
            };
            Assert.Equal(Table(column.Value), actual);
        }

        var batchSize = arguments.GetProperty("per_device_train_batch_size").GetInt32();
        Assert.Equal((data.Count + batchSize - 1) / batchSize, CompareBatches(Path.Combine(folder, "batches.safetensors"), data, batchSize));
    }

    private static TrainingDataset Dataset(JsonElement expected, JsonElement arguments)
    {
        var answerOnly = Optional(arguments, "assistant_only_loss")?.GetBoolean() ?? Optional(arguments, "completion_only_loss")?.GetBoolean() ?? true;
        var rows = expected.GetProperty("rows");
        var isConversation = rows[0].TryGetProperty("messages", out _) || rows[0].TryGetProperty("conversations", out _);

        // The peer's default for conversations is every token; so it is for rows that a function turned into text.
        var everyToken = !answerOnly || (isConversation && Optional(arguments, "assistant_only_loss") is null) || Optional(expected, "formatted") is not null;
        return TrainingDataset.FromRows(Rows(rows), new DatasetOptions { Loss = everyToken ? LossTokens.All : LossTokens.Answer });
    }

    /// <summary>Compares all batches of a file, which may go through the data more than once, and returns their number.</summary>
    private static int CompareBatches(string file, TokenizedDataset data, int batchSize)
    {
        using var reference = SafetensorsFile.Open(file);
        int[][] batches = [.. Enumerable.Range(0, data.Count).Chunk(batchSize)];
        var count = reference.Names.Select(name => name.Split('.')[0]).Distinct().Count();
        for (var i = 0; i < count; i++)
        {
            using var scope = NewDisposeScope();
            using var batch = data.Collate(batches[i % batches.Length], CPU);
            foreach (var name in reference.Names.Where(name => name.StartsWith($"{i}.", StringComparison.Ordinal)))
            {
                using var read = reference.Read(name);
                var values = read.is_floating_point() ? [.. read.data<float>().Select(value => (long)BitConverter.SingleToInt32Bits(value))] : read.data<long>().ToArray();
                Assert.Equal(values, Flat(batch, name[(name.IndexOf('.', StringComparison.Ordinal) + 1)..]));
            }
        }

        return count;
    }

    private static long[] Flat(TrainingBatch batch, string name)
    {
        long[] lengths = batch.Packing is null ? [] : [.. batch.Packing.SelectMany(row => row).Select(length => (long)length)];
        return name switch
        {
            "input_ids" => batch.InputIds.data<long>().ToArray(),
            "labels" => batch.Labels.data<long>().ToArray(),
            "completion_mask" => batch.Labels.ne(TrainingExample.Ignored).to(ScalarType.Int64).data<long>().ToArray(),
            "label" => [.. ((JudgedBatch)batch).Desirable.Select(good => good ? 1L : 0)],
            "margin" => [.. ((PairBatch)batch).Margins!.data<float>().Select(margin => (long)BitConverter.SingleToInt32Bits(margin))],
            _ when name.StartsWith("KL_", StringComparison.Ordinal) => Flat(((JudgedBatch)batch).Mismatched!, name["KL_".Length..]),
            "attention_mask" => (batch.AttentionMask ?? ones_like(batch.InputIds)).data<long>().ToArray(),
            "position_ids" => batch.Positions!.data<long>().ToArray(),
            "cu_seq_lens_q" or "cu_seq_lens_k" => [0, .. lengths.Select((_, i) => lengths[..(i + 1)].Sum())],
            "max_length_q" or "max_length_k" => [lengths.Max()],
            "seq_idx" => [.. lengths.SelectMany((length, i) => Enumerable.Repeat((long)i, (int)length))],
            _ => throw new InvalidDataException($"unknown tensor {name}"),
        };
    }

    private static void ComparePacking(JsonElement expected, JsonElement packed)
    {
        var length = expected.GetProperty("arguments").GetProperty("seq_length").GetInt32();
        var rows = TokenRows(expected.GetProperty("rows"));
        foreach (var strategy in packed.EnumerateObject())
        {
            var actual = Packing.Pack(rows, length, StrategyNamed(strategy.Name));
            Assert.Equal(Table(strategy.Value.GetProperty("input_ids")), actual.Select(row => row.InputIds));
            Assert.Equal(Table(strategy.Value.GetProperty("labels")), actual.Select(row => row.Labels));
            if (strategy.Value.TryGetProperty("seq_lengths", out var lengths))
            {
                Assert.Equal(Table(lengths), actual.Select(row => row.Lengths!));
                Assert.Equal(Table(strategy.Value.GetProperty("position_ids")), actual.Select(row => row.Lengths!.SelectMany(count => Enumerable.Range(0, count))));
            }
            else
            {
                Assert.All(actual, row => Assert.Null(row.Lengths));
            }
        }
    }

    private static void CompareCollators(JsonElement arguments, JsonElement collated)
    {
        var left = arguments.GetProperty("padding_side").GetString() == "left";
        var paddingId = arguments.GetProperty("pad_token_id").GetInt32();
        foreach (var run in collated.EnumerateObject())
        {
            int? multiple = run.Name.EndsWith("_multiple", StringComparison.Ordinal) ? arguments.GetProperty("pad_to_multiple_of").GetInt32() : null;
            JsonElement[] rows = [.. run.Value.GetProperty("rows").EnumerateArray()];
            var batch = run.Value.GetProperty("batch");
            var flat = run.Name.Contains("flattening", StringComparison.Ordinal) || run.Name.Contains("padding_free", StringComparison.Ordinal);
            var tokenwise = flat || run.Name.StartsWith("sft", StringComparison.Ordinal) || run.Name.StartsWith("language_modeling", StringComparison.Ordinal);
            if (tokenwise)
            {
                TokenRow[] tokens = [.. rows.Select(row => new TokenRow(Ints(row.GetProperty("input_ids")), Ints(Optional(row, "labels") ?? row.GetProperty("input_ids"))))];
                var padsLeft = left && !run.Name.StartsWith("sft", StringComparison.Ordinal);
                using var actual = flat ? Collator.Flattened(tokens, paddingId, CPU, multiple) : Collator.Padded(tokens, paddingId, CPU, padsLeft, multiple);
                foreach (var tensor in batch.EnumerateObject())
                {
                    Assert.Equal(Numbers(tensor.Value), Flat(actual, tensor.Name));
                }
            }
            else
            {
                foreach (var tensor in batch.EnumerateObject())
                {
                    var filler = tensor.Name switch { "input_ids" => paddingId, "attention_mask" => 0, "labels" => TrainingExample.Ignored, _ => throw new InvalidDataException(tensor.Name) };
                    int[][] values = [.. rows.Select(row => Ints(row.GetProperty(tensor.Name)))];
                    Assert.Equal(Numbers(tensor.Value), Collator.Pad(values, filler, left, multiple).Values);
                }
            }
        }
    }

    private static void CompareConversion(JsonElement expected, JsonElement converted)
    {
        var data = TrainingDataset.FromRows(Rows(expected.GetProperty("rows")));
        for (var i = 0; i < data.Count; i++)
        {
            JsonElement[] messages = [.. converted[i].GetProperty("messages").EnumerateArray()];
            Assert.Equal(
                messages.Select(message => (message.GetProperty("role").GetString(), message.GetProperty("content").GetString())),
                data.Rows[i].Messages(data.Columns[ColumnRole.Messages]!).Select(message => ((string?)message.Role, message.Content)));
        }
    }

    private static void CompareMasks(string folder, JsonElement expected, JsonElement masks)
    {
        var tokenizer = TokenizerOf(folder, expected);
        var data = TrainingDataset.FromRows(Rows(expected.GetProperty("rows")));
        for (var i = 0; i < data.Count; i++)
        {
            var example = data.Example(i, tokenizer);
            Assert.Equal(Ints(expected.GetProperty("input_ids")[i]), example.InputIds);
            Assert.Equal(Ints(masks[i]), example.Labels.Select(label => label == TrainingExample.Ignored ? 0 : 1));
            Assert.Equal(expected.GetProperty("text")[i].GetString(), string.Concat(tokenizer.ApplyChatTemplate(data.Rows[i].Messages(data.Columns[ColumnRole.Messages]!))));
        }
    }

    private static Tokenizer TokenizerOf(string folder, JsonElement expected) =>
        Tokenizer.FromFolder(Path.GetFullPath(Path.Combine(folder, expected.GetProperty("tokenizer").GetString()!)));

    private static PackingStrategy Strategy(JsonElement arguments) => Optional(arguments, "packing")?.GetBoolean() == true
        ? StrategyNamed(Optional(arguments, "packing_strategy")?.GetString() ?? "bfd")
        : PackingStrategy.None;

    private static PackingStrategy StrategyNamed(string name) => name switch
    {
        "bfd" => PackingStrategy.BestFit,
        "bfd_split" => PackingStrategy.BestFitSplit,
        "wrapped" => PackingStrategy.Wrapped,
        _ => throw new NotSupportedByPeftException("PackingStrategyNotSupported", name),
    };

    private static JsonElement? Optional(JsonElement element, string name) =>
        element.TryGetProperty(name, out var value) && value.ValueKind != JsonValueKind.Null ? value : null;

    private static IEnumerable<IReadOnlyDictionary<string, object?>> Rows(JsonElement rows) =>
        rows.EnumerateArray().Select(row => (IReadOnlyDictionary<string, object?>)RowReader.Plain(row)!);

    private static TokenRow[] TokenRows(JsonElement columns) => [.. Table(columns.GetProperty("input_ids"))
        .Zip(Table(columns.GetProperty("labels")), (ids, labels) => new TokenRow(ids, labels))];

    private static int[][] Table(JsonElement rows) => [.. rows.EnumerateArray().Select(Ints)];

    private static int[] Ints(JsonElement row) => [.. row.EnumerateArray().Select(value => value.GetInt32())];

    private static IEnumerable<long> Numbers(JsonElement value) => value.ValueKind == JsonValueKind.Array ? value.EnumerateArray().SelectMany(Numbers) : [value.GetInt64()];
}
