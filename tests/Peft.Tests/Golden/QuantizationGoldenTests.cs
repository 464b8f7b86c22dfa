using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Files;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Quantization;
using Peft.Quantization.Checkpoints;
using Peft.Tensors;
using Peft.Tests.Adapters;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>Quantised weights against bitsandbytes: its bytes, what they stand for, layers, models and adapters trained on them.</summary>
public sealed class QuantizationGoldenTests
{
    private const string Domain = "quantisation";

    [GoldenTheory]
    [GoldenData(Domain, "tables")]
    public void Code_tables_are_the_peers(string path) => Run(path, (_, tensors) =>
    {
        foreach (var type in FourBitType.All)
        {
            Assert.Equal(tensors[type.Name].data<float>().ToArray(), type.Values.ToArray());
            var (packed, _) = FourBitBlocks.Quantize(tensors[$"{type.Name}.probe_values"], type, 64);
            var codes = packed.data<byte>().SelectMany(static pair => new[] { (byte)(pair >> 4), (byte)(pair & 15) });
            Assert.Equal(tensors[$"{type.Name}.probe_codes"].data<byte>().ToArray(), codes);
        }

        Assert.Equal(tensors["dynamic_signed"].data<float>().ToArray(), DynamicMap.Signed.Values.ToArray());
        Assert.Equal(tensors["dynamic_unsigned"].data<float>().ToArray(), DynamicMap.Unsigned.Values.ToArray());
    });

    [GoldenTheory]
    [GoldenData(Domain, "nf4_blocks")]
    [GoldenData(Domain, "fp4_blocks")]
    [GoldenData(Domain, "nf4_double")]
    [GoldenData(Domain, "fp4_double")]
    public void Four_bit_blocks_are_the_peers_bytes(string path) => Run(path, (record, tensors) =>
    {
        var arguments = record["arguments"]!;
        var (type, isNested) = (FourBitType.Named((string)arguments["quant_type"]!), (bool)arguments["compress_statistics"]!);
        var names = tensors.Keys.Where(static name => name.EndsWith(".packed", StringComparison.Ordinal)).Select(static name => name[..^".packed".Length]).ToArray();
        Assert.NotEmpty(names);
        foreach (var name in names)
        {
            var options = new FourBitOptions(type) { BlockSize = int.Parse(name[(name.LastIndexOf('.') + 1)..], System.Globalization.CultureInfo.InvariantCulture), HasNestedScales = isNested };
            using var weight = FourBitWeight.Quantize(Input(path, tensors, name), options, new UnpackBuffer());
            Assert.Equal(tensors[name + ".packed"].data<byte>().ToArray(), weight.Packed.data<byte>().ToArray());
            AdapterGolden.AssertClose(tensors[name + ".absmax"], weight.Scales, record["tolerance"]!, name + ".absmax");
            if (isNested)
            {
                AdapterGolden.AssertClose(tensors[name + ".nested_absmax"], weight.NestedScales!, record["tolerance"]!, name + ".nested_absmax");
                AdapterGolden.AssertClose(tensors[name + ".offset"], tensor(weight.NestedOffset).view(1), record["tolerance"]!, name + ".offset");
                AdapterGolden.AssertClose(tensors[name + ".absmax_dequantised"], weight.DenseScales(), record["tolerance"]!, name + ".absmax_dequantised");
            }

            var expected = tensors[name + ".dequantised"];
            var values = empty(expected.shape, expected.dtype);
            weight.Unpack(values);
            AdapterGolden.AssertClose(expected, values, record["tolerance"]!, name + ".dequantised");
        }
    });

    [GoldenTheory]
    [GoldenData(Domain, "dynamic_blocks")]
    public void Dynamic_blocks_are_the_peers_bytes(string path) => Run(path, (record, tensors) =>
    {
        foreach (var name in tensors.Keys.Where(static name => name.EndsWith(".codes", StringComparison.Ordinal)).Select(static name => name[..^".codes".Length]))
        {
            var parts = name.Split('.');
            var blockSize = parts.Length > 1 ? int.Parse(parts[1], System.Globalization.CultureInfo.InvariantCulture) : 256;
            var map = parts[0] == "unsigned" ? DynamicMap.Unsigned : DynamicMap.Signed;
            var (codes, scales) = map.Quantize(tensors[parts[0] + ".input"], blockSize);
            Assert.Equal(tensors[name + ".codes"].data<byte>().ToArray(), codes.data<byte>().ToArray());
            AdapterGolden.AssertClose(tensors[name + ".absmax"], scales, record["tolerance"]!, name + ".absmax");
            AdapterGolden.AssertClose(tensors[name + ".dequantised"], map.Dequantize(codes, scales, blockSize), record["tolerance"]!, name + ".dequantised");
        }
    });

    [GoldenTheory]
    [GoldenData(Domain, "int8_rows")]
    public void Rows_of_integers_are_the_peers(string path) => Run(path, (record, tensors) =>
    {
        foreach (var name in tensors.Keys.Where(static name => name.EndsWith(".row_stats", StringComparison.Ordinal)).Select(static name => name[..^".row_stats".Length]))
        {
            var parts = name.Split('.');
            var splits = parts[0].EndsWith("_split", StringComparison.Ordinal);
            var input = tensors[parts[0].Replace("_split", "", StringComparison.Ordinal)].to(parts[1] == "fp16" ? ScalarType.Float16 : ScalarType.Float32);
            var (codes, scales, outliers) = Int8Rows.Quantize(input, splits ? (double)record["arguments"]!["threshold"]! : 0);
            Assert.Equal(tensors[name + ".codes"].data<sbyte>().ToArray(), codes.data<sbyte>().ToArray());
            AdapterGolden.AssertClose(tensors[name + ".row_stats"], scales, record["tolerance"]!, name + ".row_stats");
            if (splits)
            {
                Assert.Equal(tensors[name + ".outlier_columns"].data<long>().ToArray(), outliers!.nonzero().view(-1).data<long>().ToArray());
            }
        }

        using var weight = Int8Weight.Quantize(tensors["weight"], 0, new UnpackBuffer());
        Assert.Equal(tensors["weight.codes"].data<sbyte>().ToArray(), weight.Codes.data<sbyte>().ToArray());
        var values = empty(weight.Shape.ToArray(), ScalarType.Float32);
        weight.Unpack(values);
        AdapterGolden.AssertClose(tensors["weight.dequantised"], values, record["tolerance"]!, "weight.dequantised");
        var (given, rows, _) = Int8Rows.Quantize(tensors["input"].to(ScalarType.Float16));
        var sums = Int8Rows.Multiply(given, weight.Codes);
        Assert.Equal(tensors["product.int32"].to(ScalarType.Int64).data<long>().ToArray(), sums.to(ScalarType.Int64).data<long>().ToArray());
        AdapterGolden.AssertClose(tensors["product.dequantised"], Int8Rows.Dequantize(sums, rows, weight.Scales), record["tolerance"]!, "product");
    });

    [GoldenTheory]
    [GoldenData(Domain, "linear4_")]
    [GoldenData(Domain, "linear8_")]
    public void A_layer_and_its_gradient_are_the_peers(string path) => Run(path, (record, tensors) =>
    {
        var (weight, x) = (tensors["weight"], tensors["input"]);
        using var layer = new Linear(weight.shape[1], weight.shape[0], hasBias: true);
        layer.Bias!.Assign(tensors["bias"].clone());
        layer.Weight.Pack(Packed(record["arguments"]!, weight));
        HoldState(Path.Combine(GoldenCases.PathOf(Domain, path), "state.safetensors"), layer.Weight.Packed!);
        using var tape = new Tape();
        var rows = x.view(-1, x.shape[^1]);
        tape.AddRoot(rows, needsGradient: true);
        var y = layer.Forward(rows, new ForwardContext { Tape = tape });
        AdapterGolden.AssertClose(tensors["output"].view(y.shape), y, record["tolerance"]!, "output");
        var gradient = tape.BackwardTo([(y, tensors["output_gradient"].view(y.shape))], [rows], default)[0]!;
        AdapterGolden.AssertClose(tensors["input_gradient"].view(rows.shape), gradient, record["tolerance"]!, "gradient of the input");
    });

    [GoldenTheory]
    [GoldenData(Domain, "models/")]
    public void A_quantised_model_computes_as_the_peers(string path) => GoldenCases.Run(Domain, path, folder =>
    {
        using var noGradients = no_grad();
        var record = AdapterGolden.Case(folder);
        var tensors = AdapterGolden.Tensors(Path.Combine(folder, "io.safetensors"));
        var saved = AdapterGolden.Tensors(Path.Combine(folder, "model.safetensors"));
        using (var model = Quantized(folder))
        {
            using var scope = NewDisposeScope();
            foreach (var (name, parameter, _) in model.Base.NamedParameters())
            {
                if (parameter.Packed is { } packed)
                {
                    foreach (var (part, tensor) in packed.Stored(name)!)
                    {
                        HoldBytes(saved[part], tensor, part);
                    }
                }

                if (!saved.TryGetValue(name, out var stored))
                {
                    Assert.False(parameter.IsOwner, $"'{name}' isn't in the peer's file");
                    continue;
                }

                Assert.Equal(stored.dtype is ScalarType.Byte or ScalarType.Int8, parameter.Packed is not null);
            }

            HoldPeersKernel(model);
            var logits = ModelRun.Logits(model, tensors);
            AdapterGolden.AssertClose(tensors["logits"].mul(tensors["attention_mask"].unsqueeze(-1)), logits, record["tolerance"]!, "logits");
        }

        AdapterGolden.Free(tensors, saved);
    });

    [GoldenTheory]
    [GoldenData(Domain, "models/")]
    public void A_saved_quantised_model_is_read_and_written_as_the_peers(string path) => GoldenCases.Run(Domain, path, folder =>
    {
        using var noGradients = no_grad();
        using var other = new TemporaryFolder();
        var record = AdapterGolden.Case(folder);
        using (var model = PeftModel.Load(folder))
        {
            model.Save(other.Path);
            HoldPeersKernel(model);
            using var scope = NewDisposeScope();
            var tensors = AdapterGolden.Tensors(Path.Combine(folder, "io.safetensors"));
            var logits = ModelRun.Logits(model, tensors);
            AdapterGolden.AssertClose(tensors["logits"].mul(tensors["attention_mask"].unsqueeze(-1)), logits, record["tolerance"]!, "logits");
            AdapterGolden.Free(tensors);
        }

        var (theirs, ours) = (AdapterGolden.Tensors(Path.Combine(folder, "model.safetensors")), AdapterGolden.Tensors(other["model.safetensors"]));
        Assert.Equal(theirs.Keys.Order(), ours.Keys.Order());
        foreach (var (name, tensor) in theirs)
        {
            HoldBytes(tensor, ours[name], name);
        }

        var (theirConfig, ourConfig) = (JsonFile.ReadNode(Path.Combine(folder, "config.json")), JsonFile.ReadNode(other["config.json"]));
        Assert.True(JsonNode.DeepEquals(theirConfig["quantization_config"], ourConfig["quantization_config"]));
        AdapterGolden.Free(theirs, ours);
    });

    [GoldenTheory]
    [GoldenData(Domain, "gptq_layout")]
    [GoldenData(Domain, "awq_layout")]
    public void Words_of_integers_stand_for_the_values_that_the_layout_says(string path) => Run(path, (record, tensors) =>
    {
        var settings = (JsonObject)record["arguments"]!.DeepClone();
        settings["quant_method"] = path[..path.IndexOf('_', StringComparison.Ordinal)];
        foreach (var order in tensors.Keys.Where(static name => name.StartsWith("dequantised", StringComparison.Ordinal)).Select(static name => name["dequantised".Length..]))
        {
            using var folder = new TemporaryFolder();
            var parts = new[] { "qweight", "qzeros", "scales" }.Select(name => ("layer." + name, tensors[name])).ToList();
            if (tensors.TryGetValue("g_idx" + order, out var index))
            {
                parts.Add(("layer.g_idx", index));
            }

            SafetensorsWriter.Write(folder["layer.safetensors"], parts);
            using var file = TensorStore.OpenFile(folder["layer.safetensors"]);
            using var store = QuantizedStore.Open(settings, ScalarType.Float32, file);
            Assert.Equal("layer.weight", Assert.Single(store.Names));
            AdapterGolden.AssertClose(tensors["dequantised" + order], store.Read("layer.weight"), record["tolerance"]!, "dequantised" + order);

            // What it stands for, packed again, is the same words.
            using var packed = ((IPackedStore)store).ReadPacked("layer.weight", new UnpackBuffer(), isTransposed: false, CPU);
            using var again = packed.Repack(store.Read("layer.weight"));
            Assert.Equal(parts.Select(static part => part.Item1), again.Stored("layer.weight")!.Select(static part => part.Name));
            foreach (var ((name, expected), (_, found)) in parts.Zip(again.Stored("layer.weight")!))
            {
                HoldBytes(expected, found, name);
            }
        }
    });

    [GoldenTheory]
    [GoldenData(Domain, "qlora/")]
    public void An_adapter_on_a_quantised_base_computes_and_merges_as_the_peers(string path) => GoldenCases.Run(Domain, path, folder =>
    {
        var record = AdapterGolden.Case(folder);
        var values = AdapterGolden.Tensors(Path.Combine(folder, "values.safetensors"));
        var batches = AdapterGolden.Tensors(Path.Combine(folder, "batches.safetensors"));
        var first = batches.Where(static entry => entry.Key.StartsWith("0.", StringComparison.Ordinal)).ToDictionary(static entry => entry.Key[2..], static entry => entry.Value);
        using var model = Quantized(Path.Combine(folder, (string)record["base"]!));
        HoldPeersKernel(model);
        model.LoadAdapter(Path.Combine(folder, "adapter_init"));
        using (var scope = NewDisposeScope())
        {
            HoldLogits("logits");
            HoldLogits("logits_adapter_off", AdapterSelection.Base);
            model.Merge();
            Assert.Contains(model.Base.NamedParameters(), static named => named.Parameter.Packed is not null);
            HoldMerged(values, model, (double)record["share_of_merged_codes_allowed_to_differ"]!);
            model.UndoMerge();
            HoldLogits("logits");
            model.Merge(options: new() { DataType = ScalarType.Float32 });
            Assert.DoesNotContain(model.Base.NamedParameters(), static named => named.Parameter.Packed is not null);
            HoldLogits("dense_merged_logits");
            model.UndoMerge();
            HoldLogits("logits");
        }

        AdapterGolden.Free(values, batches);

        void HoldLogits(string name, AdapterSelection? selection = null) => AdapterGolden.AssertClose(
            values[name].mul(first["attention_mask"].unsqueeze(-1)), ModelRun.Logits(model, first, selection), record["tolerance"]!, name);
    });

    [GoldenTheory]
    [GoldenData(Domain, "qlora/")]
    public void An_adapter_is_trained_on_a_quantised_base_as_the_peers(string path) => GoldenCases.Run(Domain, path, folder =>
    {
        var record = AdapterGolden.Case(folder);
        using var model = Quantized(Path.Combine(folder, (string)record["base"]!));
        HoldPeersKernel(model);
        model.LoadAdapter(Path.Combine(folder, "adapter_init"));
        QuantizedTraining.Hold(record, folder, model);
    });

    /// <summary>
    /// The peer's kernel for AVX-512 takes the scales of four-bit blocks as if every row began a block, where a row is a multiple of 16 numbers wide:
    /// rows narrower than a block all have the first scale. Its other kernels, its quantisation and its files have the blocks run on across rows, as they
    /// do here; only what the peer computed for such narrow rows is reproduced.
    /// </summary>
    private static void HoldPeersKernel(PeftModel model)
    {
        foreach (var weight in model.Base.NamedParameters().Select(static named => named.Parameter.Packed).OfType<FourBitWeight>())
        {
            var width = weight.Shape[1];
            if (width % 16 == 0 && width % weight.BlockSize != 0)
            {
                Assert.True(width < weight.BlockSize, "wider rows that aren't whole blocks have no such scales");
                weight.Scales.copy_(weight.Scales[0].clone());
                weight.NestedScales?.copy_(weight.NestedScales[0].clone());
            }
        }
    }

    private static void HoldMerged(Dictionary<string, Tensor> values, PeftModel model, double share)
    {
        foreach (var (path, parameter, _) in model.Base.NamedParameters())
        {
            if (!values.TryGetValue("merged." + path, out var expected))
            {
                continue;
            }

            var found = parameter.Packed switch { FourBitWeight four => four.Packed, Int8Weight eight => eight.Codes, _ => parameter.Data };
            var differing = found.to(ScalarType.Int32).view(-1).ne(expected.to(ScalarType.Int32).view(-1)).sum().item<long>();
            Assert.True(differing <= share * expected.NumberOfElements, $"{path}: {differing} of {expected.NumberOfElements} merged codes differ");
        }
    }

    private static PeftModel Quantized(string folder)
    {
        var record = AdapterGolden.Case(folder);
        var model = PeftModel.Load(Path.Combine(folder, (string)record["dense_model"]!));
        ModelQuantizer.Quantize(model.Base, QuantizationConfig.FromJson((JsonObject)record["arguments"]!));
        return model;
    }

    private static PackedWeight Packed(JsonNode arguments, Tensor weight) => arguments["threshold"] is { } threshold
        ? Int8Weight.Quantize(weight, (double)threshold, new UnpackBuffer())
        : FourBitWeight.Quantize(
            weight,
            new FourBitOptions(FourBitType.Named((string)arguments["quant_type"]!))
            {
                HasNestedScales = (bool)arguments["compress_statistics"]!,
                ComputeType = (string)arguments["compute_dtype"]! == "bf16" ? ScalarType.BFloat16 : ScalarType.Float32,
            },
            new UnpackBuffer());

    private static void HoldState(string path, PackedWeight weight)
    {
        var state = AdapterGolden.Tensors(path);
        var own = weight.Stored("weight")!.ToDictionary(static part => part.Name, static part => part.Tensor);
        Assert.Equal(state.Keys.Where(static name => name != "bias").Order(), own.Keys.Order());
        foreach (var (name, tensor) in own)
        {
            HoldBytes(state[name], tensor, name);
        }

        AdapterGolden.Free(state);
    }

    /// <summary>Scales of four-bit blocks may differ in the last place; anything else is the peer's bytes.</summary>
    private static void HoldBytes(Tensor expected, Tensor found, string name)
    {
        Assert.Equal(expected.dtype, found.dtype);
        if (expected.is_floating_point())
        {
            TensorAssert.Close(expected, found, 1e-6, 1e-6, name);
        }
        else if (name.Contains("quant_state", StringComparison.Ordinal))
        {
            HoldQuantizationState(Text(expected), Text(found));
        }
        else
        {
            Assert.Equal(expected.shape, found.shape);
            var differing = expected.ne(found).sum().item<long>();
            Assert.True(differing == 0, $"{name}: {differing} of {expected.NumberOfElements} codes differ");
        }
    }

    /// <summary>The text is the same to the letter, but for an offset that differs in the last place.</summary>
    private static void HoldQuantizationState(string expected, string found)
    {
        const string offset = "\"nested_offset\": ";
        var at = expected.IndexOf(offset, StringComparison.Ordinal);
        if (at < 0)
        {
            Assert.Equal(expected, found);
            return;
        }

        Assert.Equal(expected[..(at + offset.Length)], found[..(at + offset.Length)]);
        Assert.Equal((double)JsonNode.Parse(expected)!["nested_offset"]!, (double)JsonNode.Parse(found)!["nested_offset"]!, 1e-6);
    }

    private static string Text(Tensor bytes) => System.Text.Encoding.UTF8.GetString(bytes.data<byte>().ToArray());

    /// <summary>An input of a case of blocks: its own, or that of a case beside it.</summary>
    private static Tensor Input(string path, Dictionary<string, Tensor> tensors, string name)
    {
        var key = name[..name.LastIndexOf('.')] + ".input";
        if (tensors.TryGetValue(key, out var own))
        {
            return own;
        }

        foreach (var (other, file) in new[] { ("nf4_blocks", "blocks"), ("nf4_double", "double") })
        {
            var all = AdapterGolden.Tensors(Path.Combine(GoldenCases.PathOf(Domain, Path.GetDirectoryName(path)!), other, file + ".safetensors"));
            var found = all.GetValueOrDefault(key) ?? all.GetValueOrDefault(key.Replace(".input", ".fp32.input", StringComparison.Ordinal));
            var copy = found?.clone();
            AdapterGolden.Free(all);
            if (copy is not null)
            {
                return copy;
            }
        }

        throw new KeyNotFoundException(key);
    }

    private static void Run(string path, Action<JsonObject, Dictionary<string, Tensor>> body) => GoldenCases.Run(Domain, path, folder =>
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var tensors = Directory.GetFiles(folder, "*.safetensors").Where(static file => Path.GetFileName(file) != "state.safetensors")
            .SelectMany(AdapterGolden.Tensors).ToDictionary(static entry => entry.Key, static entry => entry.Value);
        body(AdapterGolden.Case(folder), tensors);
        AdapterGolden.Free(tensors);
    });
}
