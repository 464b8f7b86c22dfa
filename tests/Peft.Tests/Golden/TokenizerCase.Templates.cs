using System.Globalization;
using System.Text.Json;
using Peft.Tokenization;
using Peft.Tokenization.ChatTemplates;

namespace Peft.Tests.Golden;

internal sealed partial class TokenizerCase
{
    /// <summary>Renders every conversation of <c>renderings.json</c>; a template of its own, or those of the folder's tokenizer.</summary>
    private void Templates(string folder)
    {
        var shared = Path.GetDirectoryName(folder)!;
        var messages = Load(Path.Combine(shared, "messages.json"));
        var file = Path.Combine(folder, "template.jinja");
        var template = File.Exists(file) ? File.ReadAllText(file) : null;
        var tokenizer = Tokenizer.FromFolder(template is null ? folder : Path.Combine(shared, "tokenizer"));
        var now = DateTime.Parse(Load(Path.Combine(folder, "case.json")).GetProperty("arguments").GetProperty("strftime_now").GetString()!, CultureInfo.InvariantCulture);
        var record = Load(Path.Combine(folder, "renderings.json"));
        foreach (var row in Rows(record, "renderings"))
        {
            var conversation = Conversation(messages, row);
            var options = Options(row.GetProperty("options"), messages, template) with { Now = now };
            Rendering(row, () => tokenizer.RenderChat(conversation, options).Text);
        }

        foreach (var row in Rows(record, "tokenized"))
        {
            Tokenized(tokenizer, row, Conversation(messages, row), Options(row.GetProperty("options"), messages, template) with { Now = now });
        }
    }

    private static IReadOnlyList<ChatMessage> Conversation(JsonElement messages, JsonElement row)
    {
        // Rows without a name use the first conversation.
        var conversations = messages.GetProperty("conversations");
        return ChatMessage.ListFromJson(row.TryGetProperty("messages", out var name)
            ? conversations.GetProperty(name.GetString()!)
            : conversations.EnumerateObject().First().Value);
    }

    private static ChatTemplateOptions Options(JsonElement options, JsonElement messages, string? template)
    {
        var variables = new Dictionary<string, object?>(StringComparer.Ordinal);
        var result = new ChatTemplateOptions { Template = template, Variables = variables };
        foreach (var option in options.EnumerateObject())
        {
            var value = option.Value;
            switch (option.Name)
            {
                case "add_generation_prompt":
                    result = result with { AddGenerationPrompt = value.GetBoolean() };
                    break;
                case "continue_final_message":
                    result = value.ValueKind == JsonValueKind.String
                        ? result with { ContinueFinalMessage = true, ContinueField = value.GetString()! }
                        : result with { ContinueFinalMessage = value.GetBoolean() };
                    break;
                case "tools":
                    result = result with { Tools = value.ValueKind == JsonValueKind.True ? messages.GetProperty("tools") : value };
                    break;
                case "documents":
                    result = result with { Documents = value.ValueKind == JsonValueKind.True ? messages.GetProperty("documents") : value };
                    break;
                case "chat_template":
                    result = result with { Template = value.GetString() };
                    break;
                case "sanitize_control_tokens":
                    result = result with { PlainControlTokens = value.GetBoolean() };
                    break;
                case "return_assistant_tokens_mask" or "truncation" or "max_length":
                    break;
                default:
                    variables[option.Name] = value;
                    break;
            }
        }

        return result;
    }

    private void Rendering(JsonElement row, Func<string> render)
    {
        var what = $"{row.GetProperty("options")} {(row.TryGetProperty("messages", out var name) ? name : default)}";
        string text;
        try
        {
            text = render();
        }
        catch (TemplateException error)
        {
            if (!row.TryGetProperty("error", out var wanted))
            {
                Report(what, row.GetProperty("text").GetString()!, error.ToString());
            }
            else if (row.GetProperty("type").GetString() == "TemplateError" && wanted.GetString() != error.Message)
            {
                Report(what, wanted.GetString()!, error.Message);
            }

            return;
        }

        if (row.TryGetProperty("error", out var failure))
        {
            Report(what, "the error " + failure, text);
        }
        else
        {
            Same(what, row.GetProperty("text"), () => text);
        }
    }

    private void Tokenized(Tokenizer tokenizer, JsonElement row, IReadOnlyList<ChatMessage> conversation, ChatTemplateOptions options)
    {
        var given = row.GetProperty("options");
        if (given.TryGetProperty("truncation", out var truncate) && truncate.GetBoolean())
        {
            tokenizer = tokenizer.With(new Truncation { MaximumLength = given.GetProperty("max_length").GetInt32() }, null);
        }

        ChatEncoding encoding;
        try
        {
            encoding = tokenizer.EncodeChat(conversation, options);
        }
        catch (PeftException error)
        {
            if (!row.TryGetProperty("error", out _))
            {
                Report($"tokenized {given} {row.GetProperty("messages")}", row.ToString(), error.ToString());
            }

            return;
        }

        if (row.TryGetProperty("error", out var failure))
        {
            Report($"tokenized {given} {row.GetProperty("messages")}", "the error " + failure, "ids");
            return;
        }

        Same($"tokenized {given} {row.GetProperty("messages")}", row.GetProperty("input_ids"), () => Json(encoding.Ids));
        if (row.TryGetProperty("assistant_masks", out var mask))
        {
            Same($"mask {given} {row.GetProperty("messages")}", mask, () => Json(encoding.AssistantMask));
        }
    }
}
