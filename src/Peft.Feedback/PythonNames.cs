namespace Peft.Feedback;

/// <summary>What the functions and classes of tutorials for PEFT and TRL are called here.</summary>
public static class PythonNames
{
    /// <summary>Commands by the names that do the same in Python.</summary>
    public static IReadOnlyDictionary<string, string> Commands { get; } = new Dictionary<string, string>(StringComparer.Ordinal)
    {
        ["from_pretrained"] = "Import-PeftModel",
        ["AutoModelForCausalLM"] = "Import-PeftModel",
        ["AutoModelForSeq2SeqLM"] = "Import-PeftModel",
        ["AutoModelForSequenceClassification"] = "Import-PeftModel -TaskType SEQ_CLS",
        ["AutoPeftModelForCausalLM"] = "Import-PeftAdapter",
        ["PeftModel"] = "Import-PeftAdapter",
        ["load_adapter"] = "Import-PeftAdapter",
        ["hotswap_adapter"] = "Import-PeftAdapter -Force",
        ["prepare_model_for_kbit_training"] = "Import-PeftModel -LoadIn4Bit",
        ["BitsAndBytesConfig"] = "New-QuantizationConfig",
        ["LoraConfig"] = "New-LoraConfig",
        ["get_peft_config"] = "New-PeftConfig",
        ["get_peft_model"] = "Add-PeftAdapter",
        ["inject_adapter_in_model"] = "Add-PeftAdapter",
        ["add_adapter"] = "Add-PeftAdapter",
        ["add_weighted_adapter"] = "Join-PeftAdapter",
        ["set_adapter"] = "Set-ActiveAdapter",
        ["delete_adapter"] = "Remove-PeftAdapter",
        ["disable_adapter"] = "Disable-PeftAdapter",
        ["disable_adapter_layers"] = "Disable-PeftAdapter",
        ["enable_adapter_layers"] = "Enable-PeftAdapter",
        ["print_trainable_parameters"] = "Measure-ModelParameter",
        ["get_nb_trainable_parameters"] = "Measure-ModelParameter",
        ["named_modules"] = "Get-ModelModule",
        ["merge_adapter"] = "Merge-LoraAdapter",
        ["unmerge_adapter"] = "Undo-LoraMerge",
        ["merge_and_unload"] = "Merge-LoraAdapter -Unload",
        ["save_pretrained"] = "Export-PeftAdapter",
        ["load_dataset"] = "Import-TrainingDataset",
        ["Trainer"] = "Invoke-LoraTraining",
        ["SFTTrainer"] = "Invoke-LoraTraining",
        ["train"] = "Invoke-LoraTraining",
        ["DPOTrainer"] = "Invoke-PreferenceTraining",
        ["KTOTrainer"] = "Invoke-PreferenceTraining -Objective kto",
        ["ORPOTrainer"] = "Invoke-PreferenceTraining -Objective orpo",
        ["RewardTrainer"] = "Invoke-PreferenceTraining -Objective reward",
        ["GRPOTrainer"] = "Invoke-PolicyTraining",
        ["generate"] = "Invoke-TextGeneration",
        ["pipeline"] = "Invoke-TextGeneration",
        ["apply_chat_template"] = "ConvertTo-ChatPrompt",
    };
}
