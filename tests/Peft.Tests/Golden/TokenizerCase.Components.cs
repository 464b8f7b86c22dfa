using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Tokenization;
using Peft.Tokenization.Decoders;
using Peft.Tokenization.Normalizers;
using Peft.Tokenization.PreTokenizers;
using Peft.Tokenization.Text;

namespace Peft.Tests.Golden;

internal sealed partial class TokenizerCase
{
    /// <summary>Single components: <c>outputs[i]</c> belongs to <c>inputs[i]</c>.</summary>
    private void Components(string folder)
    {
        Each(Path.Combine(folder, "normalizers.json"), (fields, what) =>
        {
            var normalizer = NormalizerReader.Read(fields);
            return (input, output) =>
            {
                var text = new NormalizedText(input.GetString()!);
                Same(what, output, () =>
                {
                    normalizer.Normalize(text);
                    return text.Text;
                });
            };
        });
        Each(Path.Combine(folder, "pre_tokenizers.json"), (fields, what) =>
        {
            var splitter = PreTokenizerReader.Read(fields);
            return (input, output) => Same(what, output, () => Pieces(splitter, input.GetString()!));
        });
        Each(Path.Combine(folder, "decoders.json"), (fields, what) =>
        {
            var decoder = DecoderReader.Read(fields);
            return (input, output) =>
            {
                // Where the peer crashes any result will do.
                var tokens = input.EnumerateArray().Select(token => token.GetString()!).ToList();
                var text = string.Concat(decoder.Decode(tokens));
                if (output.ValueKind == JsonValueKind.String)
                {
                    Same(what, output, () => text);
                }
            };
        });
        var host = JsonNode.Parse(File.ReadAllBytes(Path.Combine(folder, "word_level.json")))!;
        Each(Path.Combine(folder, "post_processors.json"), (fields, what) =>
        {
            host["post_processor"] = JsonNode.Parse(fields.Element.GetRawText());
            using var document = JsonDocument.Parse(host.ToJsonString());
            var tokenizer = new Tokenizer(TokenizerPipeline.Read(document.RootElement, "word_level.json"), new TokenizerConfiguration(), TokenizerFiles.None);
            return (input, output) =>
            {
                var (a, b) = (input[0].GetString()!, input[1].GetString());
                Fields(what, () => b is null ? tokenizer.Encode(a) : tokenizer.Encode(a, b), output, b is null ? [a] : [a, b]);
            };
        });
    }

    private void Each(string path, Func<JsonFields, string, Action<JsonElement, JsonElement>> make)
    {
        var record = Load(path);
        var inputs = record.GetProperty("inputs");
        foreach (var component in record.GetProperty("components").EnumerateArray())
        {
            var config = component.GetProperty("config");
            var name = config.ToString();
            for (var i = 0; i < inputs.GetArrayLength(); i++)
            {
                var what = $"{(name.Length > 150 ? name[..150] : name)} on {Show(inputs[i].ToString())}";
                make(new JsonFields(config, "config"), what)(inputs[i], component.GetProperty("outputs")[i]);
            }
        }
    }

    private static JsonElement Pieces(PreTokenizer splitter, string text)
    {
        var sink = new Collector();
        if (text.Length > 0)
        {
            splitter.Split(new TextSpan(text, 0, text.Length, Alignment.Identity, 0), sink);
        }

        var flat = new List<object>();
        foreach (var given in sink.Pieces)
        {
            var piece = given.Spelled();
            flat.Add(piece.Span.ToString());
            flat.Add(Count(piece.Map.Start(piece.Start)));
            flat.Add(Count(piece.Map.End(piece.Start + piece.Length - 1)));
        }

        return Json(flat);

        int Count(int end) => text[..end].EnumerateRunes().Count();
    }

    private sealed class Collector : ITextSpanSink
    {
        public List<TextSpan> Pieces { get; } = [];

        public void Add(in TextSpan piece) => Pieces.Add(piece);
    }
}
