using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;
using Peft.Files;
using Peft.Training.Policy;

namespace Peft.Training.Reports;

/// <summary>What a model answered while it was trained, and what that was worth: a file for each step, <c>completions/step-N.jsonl</c>, with a line for each answer.</summary>
internal sealed class CompletionLog
{
    /// <summary>The folder in an adapter's.</summary>
    public const string FolderName = "completions";

    private readonly string _folder;
    private readonly Action<string> _say;
    private bool _isFailing;

    /// <summary>Prepares the folder; files of steps that will come again are dropped.</summary>
    /// <param name="output">The adapter's folder.</param>
    /// <param name="afterStep">Steps that were made before.</param>
    /// <param name="say">Told once where nothing can be written.</param>
    public CompletionLog(string output, int afterStep, Action<string> say)
    {
        _folder = Path.Combine(output, FolderName);
        _say = say;
        foreach (var file in Directory.Exists(_folder) ? Directory.GetFiles(_folder, "step-*.jsonl") : [])
        {
            if (int.TryParse(Path.GetFileNameWithoutExtension(file)["step-".Length..], NumberStyles.None, CultureInfo.InvariantCulture, out var step) && step > afterStep)
            {
                Disk.TryTo(() => File.Delete(file));
            }
        }
    }

    /// <summary>Writes the answers of a step.</summary>
    /// <param name="rated">At least one.</param>
    /// <param name="rewards">Names of the rewards.</param>
    public void Write(IReadOnlyList<RatedCompletion> rated, IReadOnlyList<string> rewards)
    {
        var lines = new StringBuilder();
        foreach (var answer in rated)
        {
            lines.Append(new JsonObject
            {
                ["step"] = answer.Step,
                ["row"] = answer.Completion.Prompt.Index,
                ["prompt"] = answer.Completion.Prompt.Text,
                ["completion"] = answer.Completion.Text,
                ["is_ended"] = answer.Completion.IsEnded,
                ["rewards"] = new JsonObject(rewards.Select((name, r) => KeyValuePair.Create(name, (JsonNode?)answer.Rewards[r]))),
                ["reward"] = answer.Reward,
                ["advantage"] = answer.Advantage,
            }.ToJsonString(JsonFile.LineOptions)).Append('\n');
        }

        try
        {
            AtomicFile.MakeFolder(_folder);
            AtomicFile.WriteText(Path.Combine(_folder, string.Create(CultureInfo.InvariantCulture, $"step-{rated[0].Step}.jsonl")), lines.ToString());
            _isFailing = false;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException or PeftException)
        {
            if (!_isFailing)
            {
                _say($"The answers could not be written into '{_folder}': {error.Message} The training goes on.");
            }

            _isFailing = true;
        }
    }
}
