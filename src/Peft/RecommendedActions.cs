using System.Collections.Frozen;

namespace Peft;

/// <summary>
/// What to do about an error wherever it is thrown: the text of <see cref="PeftException.RecommendedAction"/> for ids whose throwers have
/// nothing more precise to say.
/// </summary>
internal static class RecommendedActions
{
    private const string FetchModel = "Fetch the model's files again; they are cut off, damaged, or of different models.";
    private const string FetchTokenizer = "Fetch the tokenizer's files again from where the model comes from.";
    private const string NoCodeForTokenizer = "Use the tokenizer file in another form that the model is offered with (tokenizer.json, tokenizer.model), or another model.";
    private const string UnknownToken = "Fetch the tokenizer's files again, or leave these characters out of the text.";
    private const string ConfigOfWeights = "Use the config.json that belongs to these weights; fetch it again if it was edited.";
    private const string Template = "Give another template by name or as text, or correct the one in the tokenizer's folder (chat_template.jinja or tokenizer_config.json).";
    private const string LongerTruncation = "Raise the maximum length, or truncate LongestFirst.";

    private static readonly FrozenDictionary<string, string> s_texts = new Dictionary<string, string>(StringComparer.Ordinal)
    {
        ["AdapterConfigContradictory"] = "Leave one of the settings out, or change it so that they agree.",
        ["AdapterConversionNotSupported"] = "Use the adapter as it is, or merge it.",
        ["AdapterNamedTwice"] = "Name each adapter once.",
        ["AdapterTensorMissing"] = "Fetch or export the adapter's files again; they are cut off, or its adapter_config.json was edited.",
        ["StartNeedsData"] = "Give data: Invoke-LoraTraining takes what it trains on, Add-PeftAdapter a -Dataset.",
        ["HeadNameTaken"] = "Choose another name.",
        ["LayersInUse"] = "Remove the model's other adapters first, or import the model again for this one.",
        ["LayersInvalid"] = "Give ranges of blocks that the model has, counted from 0; the second number is the block behind the last one.",
        ["AllTargetsExcluded"] = "Name fewer modules in exclude_modules and modules_to_save, or more in target_modules.",
        ["BiasUnknown"] = "Choose one of the values that the message names.",
        ["ChatMessageInvalid"] = "Give each message as an object with a role and a content, and a conversation as a list of these.",
        ["ChatTemplateArithmetic"] = Template,
        ["ChatTemplateFailed"] = Template,
        ["ChatTemplateLimit"] = Template,
        ["ChatTemplateMissing"] = "Name one of the tokenizer's templates, or give the text of a template; where the model has none, train on prompts and completions instead.",
        ["ChatTemplateRefused"] = "Change the messages as the template's own words ask: often their order of roles, or a system message that it doesn't take.",
        ["ChatTemplateSyntax"] = Template,
        ["ChatTemplateType"] = Template,
        ["ChatTemplateUndefined"] = Template,
        ["ChatTemplateUnsafe"] = Template,
        ["CombinationNotSupported"] = "Activate the adapters together instead: Set-ActiveAdapter takes several, with weights.",
        ["ControlTokenNotPlain"] = "Take the token's spelling out of the message, or trust the messages and leave PlainControlTokens out.",
        ["TrainingRecordMissing"] = "Give an adapter that was trained here, or that Import-PeftAdapter loads from a training's folder.",
        ["TokenCacheFailed"] = "Make room there, or name another folder in the environment variable PEFT_CACHE.",
        ["DatasetFileDamaged"] = "Fetch the file again; it is cut off, damaged, or of another format.",
        ["DropoutInvalid"] = "Give a dropout from 0 to 1; 0 is off.",
        ["FileChanged"] = "Load the model again.",
        ["FileWriteFailed"] = "Choose the name of a file.",
        ["FolderNotFound"] = "Check the path, or create the folder first.",
        ["GgufHeadsInvalid"] = FetchModel,
        ["GgufKeyMissing"] = FetchModel,
        ["GgufTokenizerInvalid"] = "Fetch the file again, or use the model's safetensors files with their tokenizer.json.",
        ["GgufTokenizerNotSupported"] = "Use the model's safetensors files with their tokenizer.json.",
        ["GgufTypeNotSupported"] = "Use the model's safetensors files, or a GGUF file of another quantisation.",
        ["GgufValueInvalid"] = FetchModel,
        ["GgufVersionNotSupported"] = "Convert the model again with a newer converter, or use its safetensors files.",
        ["ImageCaptionMissing"] = "Put a text of the same name beside the image, list it in metadata.jsonl, or give one caption for all images.",
        ["ImageDamaged"] = "Fetch the image again; it is cut off or damaged.",
        ["ImageTooLarge"] = "Make the image smaller first.",
        ["ImageUnreadable"] = "Give an image as PNG, JPEG or WebP, or take the file out of the folder.",
        ["InitialisationUnknown"] = "Leave the initialisation out, for PEFT's default, or choose one that the message names.",
        ["JsonInvalid"] = "Fetch or write the file again, in UTF-8.",
        ["JsonNotAnObject"] = "Check that the file is the one that was meant; fetch or write it again.",
        ["LayerKindNotSupported"] = "Name other modules in target_modules; Get-ModelModule lists them with their kinds.",
        ["LoraBiasOnEmbedding"] = "Leave lora_bias off, or the embedding out of target_modules.",
        ["LoraVariantNotSupported"] = "For a new adapter leave the setting out, which makes plain LoRA; one that was trained with it would compute something else without it.",
        ["MergeNotPossible"] = "Use the adapter without merging it.",
        ["MethodNotSupported"] = "Use an adapter of one of the methods that the message names.",
        ["MixedBatchInTraining"] = "Give the pass a tape, or leave training mode.",
        ["MixedBatchNotPossible"] = "Run the rows of this adapter in a batch of their own.",
        ["NotAModel"] = "Point to the folder that holds config.json beside the weights, or to a GGUF file.",
        ["ModelConfigIncomplete"] = ConfigOfWeights,
        ["ModelConfigInvalid"] = ConfigOfWeights,
        ["ModelConfigMissing"] = "Point to the folder that holds the model's config.json beside its weights, or to a GGUF file.",
        ["NothingToQuantize"] = "Name fewer modules in llm_int8_skip_modules; Get-ModelModule -Kind Linear lists the layers there are.",
        ["NotAFolder"] = "Give the path of a folder.",
        ["OverlaysConflict"] = "Activate or merge one of them at a time.",
        ["PaddingTokenMissing"] = "Classify one row at a time, or put the tokenizer's pad_token_id into the model's config.json.",
        ["PickleNoTensors"] = "Point to the file with the weights; Peft reads a saved state_dict, not a whole pickled model.",
        ["PickleTruncated"] = "Fetch the file again, or use the model's safetensors files.",
        ["PrefixNotSupported"] = "Use prompt tuning, P-tuning or LoRA with this model.",
        ["PromptDoesNotFit"] = "Use an adapter that changes layers, such as LoRA.",
        ["QuantizationInvalid"] = "Describe it with New-QuantizationConfig -LoadIn4Bit; Get-Help New-QuantizationConfig says what each field takes.",
        ["QuantizationNotSupported"] = "Quantise to four bits (load_in_4bit, nf4 or fp4) or eight (load_in_8bit), with products in float32, bfloat16 or float16, and leave the rest out.",
        ["RankInvalid"] = "Give a rank of at least 1; 8 and 16 are usual.",
        ["RowNamesMismatch"] = "Give one adapter name, or __base__, for each row.",
        ["SafetensorsDuplicateName"] = "Give each tensor a name of its own.",
        ["SafetensorsTypeNotSupported"] = "Convert the tensor to float32, float16 or bfloat16.",
        ["SafetensorsUnknownType"] = "Fetch the file again, or convert the tensor to float32, float16 or bfloat16.",
        ["SchedulerConfigInvalid"] = "Correct the option in the model's scheduler_config.json, or fetch the file again.",
        ["SchedulerNotSupported"] = "Choose another scheduler by name: they all work with the same model.",
        ["SchedulerStepsInvalid"] = "Ask for fewer steps, and at least one.",
        ["ShapeMismatch"] = ConfigOfWeights,
        ["ShardIndexInvalid"] = FetchModel,
        ["ShardLacksTensor"] = FetchModel,
        ["ShardOutsideFolder"] = "Fetch the model from a source you trust: an index names only files beside it.",
        ["TargetPatternInvalid"] = "Correct the regular expression, or give the names of modules.",
        ["TaskTypeUnknown"] = "Choose one of the task types that the message names.",
        ["TensorNotFound"] = FetchModel,
        ["TokenIdsMissing"] = "Give the model token ids.",
        ["TokenizerTokenMissing"] = FetchTokenizer,
        ["TokenizerComponentNotSupported"] = NoCodeForTokenizer,
        ["TokenizerFileInvalid"] = FetchTokenizer,
        ["TokenizerFileUnreadable"] = "Check that it is a file, that you may read it and that no other program holds it open.",
        ["TokenizerFormatNotSupported"] = "Give a tokenizer.json, a SentencePiece .model, a vocab.txt, or the folder that holds them.",
        ["TokenizerNotFound"] = "Put the tokenizer's files into this folder, or point to the one that holds them.",
        ["TokenizerPatternInvalid"] = FetchTokenizer,
        ["TokenizerPatternNotSupported"] = NoCodeForTokenizer,
        ["TokenizerPatternTooSlow"] = "Split the text into shorter pieces.",
        ["TokenizerTextTooLong"] = "Give a shorter text, or fetch the tokenizer's files again: rules that make a text so long are not what was published.",
        ["TokenizerUnknownTokenMissing"] = UnknownToken,
        ["TruncationPairMissing"] = "Truncate the first text, or LongestFirst.",
        ["TruncationStrideTooLong"] = "Choose a smaller stride or a larger maximum length.",
        ["TruncationTooShort"] = LongerTruncation,
        ["VirtualTokensInvalid"] = "Give a number of virtual tokens, such as 20.",
        ["WeightsNotLoaded"] = "Import the model again without -StructureOnly.",
    }.ToFrozenDictionary(StringComparer.Ordinal);

    /// <summary>The action for an id, or null where it depends on the place.</summary>
    public static string? For(string errorId) => s_texts.GetValueOrDefault(errorId);
}
