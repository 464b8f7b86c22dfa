using System.Text.Json.Nodes;

namespace Peft.Adapters.Targets;

/// <summary>Tokens whose vectors are trained beside an adapter: those of the model's token embeddings, or of modules by name or ending of the path.</summary>
/// <param name="OfEmbeddings">Ids of tokens in the model's token embeddings, or null.</param>
/// <param name="ByModule">Ids of tokens by module, or null.</param>
public sealed record TokenIndices(IReadOnlyList<int>? OfEmbeddings, IReadOnlyDictionary<string, IReadOnlyList<int>>? ByModule = null)
{
    /// <summary>As <c>adapter_config.json</c> has it: a list, or lists by name.</summary>
    internal JsonNode ToJson() => ByModule is null ? List(OfEmbeddings!)
        : new JsonObject(ByModule.Select(static entry => KeyValuePair.Create(entry.Key, (JsonNode?)List(entry.Value))));

    private static JsonArray List(IReadOnlyList<int> ids) => new([.. ids.Select(static id => JsonValue.Create(id))]);
}
