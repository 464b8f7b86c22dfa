namespace Peft.Training.Data;

/// <summary>What stands before an answer in a row, and the answer.</summary>
/// <param name="Index">The row's index, counted from 0.</param>
/// <param name="Prompt">The question as text, in the form that the training gives it.</param>
/// <param name="PromptIds">Its tokens.</param>
/// <param name="Answer">The answer.</param>
public sealed record DatasetQuestion(int Index, string Prompt, IReadOnlyList<int> PromptIds, string Answer);
