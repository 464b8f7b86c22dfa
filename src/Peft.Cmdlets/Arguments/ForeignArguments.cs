using System.Collections;
using System.Management.Automation;
using Peft.Cmdlets.Pipeline;

namespace Peft.Cmdlets.Arguments;

/// <summary>Names that tutorials for transformers, PEFT and TRL give and that are no parameter here: those that ask for nothing are taken, of the others it is said what does it here.</summary>
internal static class ForeignArguments
{
    private const string Publishing = "nothing is published; the folder under -OutputPath is what the hub's own tool uploads";
    private const string OneProcess = "one process computes on one device, which Import-PeftModel -Device chooses";
    private const string InQuantization = "it goes into -Quantization @{ load_in_4bit = $true; … }";
    private const string Generated = "answers are drawn in this process, by the model that is trained";
    private const string OfClasses = "-Label names the classes in their order, such as -Label negative, positive";
    private const string OfDataset = "the data set has it: Import-TrainingDataset";

    private const string OfPath = "-Path takes a folder, -HubName a name on the hub";
    private const string InObjective = "it is an option of what is learnt, for -ObjectiveOption @{ … }";
    private const string Sampled = "-SamplePrompt is drawn at each evaluation (-EvaluationInterval)";
    private const string OfConfig = "the adapter's configuration has it: New-LoraConfig";

    /// <summary>Names that say how something is computed, shown or stored elsewhere, and change nothing that is computed here.</summary>
    private static readonly HashSet<string> s_idle = new(StringComparer.OrdinalIgnoreCase)
    {
        "trust_remote_code", "low_cpu_mem_usage", "offload_state_dict", "return_dict", "attn_implementation", "use_safetensors", "use_fast", "is_trainable", "autocast_adapter_dtype", "progressbar", "ignore_mismatched_sizes",
        "logging_strategy", "logging_first_step", "log_level", "run_name", "project", "trackio_space_id", "disable_tqdm", "include_tokens_per_second", "include_num_input_tokens_seen", "log_completions",
        "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataset_num_proc", "remove_unused_columns", "label_names",
        "gradient_checkpointing_kwargs", "save_safetensors", "save_only_model", "do_train", "do_eval", "do_predict", "eval_accumulation_steps", "prediction_loss_only", "include_inputs_for_metrics",
        "batch_eval_metrics", "eval_on_start", "auto_find_batch_size", "torch_compile", "torch_empty_cache_steps", "tf32", "fp16_full_eval", "bf16_full_eval", "fp16_opt_level", "half_precision_backend",
        "ddp_find_unused_parameters", "ddp_timeout", "local_rank", "tokenizer", "processing_class", "precompute_ref_log_probs", "precompute_ref_batch_size", "generate_during_eval", "truncation_mode",
        "padding_value", "label_pad_token_id", "is_encoder_decoder", "use_liger_kernel", "jit_mode_eval", "skip_memory_metrics", "return_dict_in_generate", "output_scores",
        "output_logits", "output_attentions", "output_hidden_states", "return_tensors", "safety_checker", "requires_safety_checker", "feature_extractor", "variant", "clean_up_tokenization_spaces",
    };

    /// <summary>What does here what a name asks for, unless it asks for nothing (nothing at all, false, none, no).</summary>
    private static readonly Dictionary<string, string> s_elsewhere = new(StringComparer.OrdinalIgnoreCase)
    {
        ["report_to"] = "-LogTo FOLDER (also -logging_dir) writes TensorBoard's files, -LogTo { … } is told of each step; the log lies beside the adapter under -OutputPath",
        ["push_to_hub"] = Publishing,
        ["hub_model_id"] = Publishing,
        ["hub_strategy"] = Publishing,
        ["hub_token"] = Publishing,
        ["hub_private_repo"] = Publishing,
        ["fp16"] = "float16 is not trained in; -BFloat16 (bf16) forms products in bfloat16",
        ["no_cuda"] = OneProcess,
        ["use_cpu"] = OneProcess,
        ["deepspeed"] = OneProcess,
        ["fsdp"] = OneProcess,
        ["fsdp_config"] = OneProcess,
        ["torch_device"] = OneProcess,
        ["overwrite_output_dir"] = "-Force starts anew where output exists",
        ["resume_from_checkpoint"] = "-Resume goes on from the newest checkpoint under -OutputPath",
        ["group_by_length"] = "-Packing BestFit saves what padding costs",
        ["length_column_name"] = "-Packing BestFit saves what padding costs",
        ["dataloader_drop_last"] = "the last batch is trained on, however small",
        ["data_seed"] = "-Seed decides the order as well",
        ["predict_with_generate"] = "Measure-TextAnswer asks for answers",
        ["compute_metrics"] = "-LogTo is told what each evaluation measures, and Measure-TextAnswer scores answers",
        ["callbacks"] = "-LogTo { … } is told of each step and evaluation as $_; -EarlyStoppingPatience stops early",
        ["args"] = "its fields are parameters of their own, which can be splatted, or -Options takes them as a table",
        ["data_collator"] = $"{OfDataset} -Loss says which tokens are learnt",
        ["dataset_text_field"] = $"{OfDataset} -TextColumn names it",
        ["formatting_func"] = $"{OfDataset} -Template makes the prompt of columns",
        ["completion_only_loss"] = $"{OfDataset} -Loss says which tokens are learnt; without it the answer's",
        ["assistant_only_loss"] = $"{OfDataset} -Loss says which tokens are learnt; without it what the assistant says",
        ["max_prompt_length"] = "-MaxLength bounds prompt and answer together",
        ["ref_model"] = "what is compared with is the model without the new adapter",
        ["ref_adapter_name"] = "what is compared with is the model without the new adapter, or the adapter as it was",
        ["model_adapter_name"] = "-AdapterName names the adapter",
        ["disable_dropout"] = "New-LoraConfig -Dropout 0 leaves out the adapter's, and the dropouts in the model's config.json (attention_dropout and others) its own",
        ["force_use_ref_model"] = "what is compared with is the model without the new adapter",
        ["reference_free"] = "cpo and orpo have no reference: -Objective",
        ["use_vllm"] = Generated,
        ["vllm_mode"] = Generated,
        ["vllm_gpu_memory_utilization"] = Generated,
        ["num_labels"] = OfClasses,
        ["id2label"] = OfClasses,
        ["label2id"] = OfClasses,
        ["bnb_4bit_compute_dtype"] = InQuantization,
        ["bnb_4bit_quant_type"] = InQuantization,
        ["bnb_4bit_use_double_quant"] = InQuantization,
        ["bnb_4bit_quant_storage"] = InQuantization,
        ["llm_int8_threshold"] = InQuantization,
        ["llm_int8_skip_modules"] = InQuantization,
        ["pretrained_model_name_or_path"] = OfPath,
        ["model_name_or_path"] = OfPath,
        ["model_name"] = OfPath,
        ["force_download"] = "Save-HubModel brings a cached model up to date",
        ["max_seq_length"] = "the training has it: Invoke-LoraTraining -MaxLength",
        ["cache_dir"] = "the environment variable HF_HOME says where the hub's cache is",
        ["token"] = "the environment variable HF_TOKEN holds it, or Save-HubModel -Token",
        ["use_auth_token"] = "the environment variable HF_TOKEN holds it, or Save-HubModel -Token",
        ["local_files_only"] = "what is in the cache is taken from there; HF_HUB_OFFLINE=1 asks for nothing else",
        ["mixed_precision"] = "-BFloat16 forms products in bfloat16, Import-PeftModel -DataType bfloat16 holds the weights in it",
        ["use_8bit_adam"] = "-Optimizer adamw_8bit keeps the optimiser's state in eight bits",
        ["train_text_encoder"] = "New-LoraConfig -TargetModule names the text encoder's layers too (q_proj, v_proj)",
        ["instance_data_dir"] = $"{OfDataset} takes the folder",
        ["with_prior_preservation"] = $"{OfDataset} -PriorPath takes the class's images",
        ["prior_loss_weight"] = InObjective,
        ["center_crop"] = InObjective,
        ["caption_dropout"] = InObjective,
        ["num_validation_images"] = Sampled,
        ["validation_epochs"] = Sampled,
        ["validation_steps"] = Sampled,
        ["generation_max_length"] = "Measure-TextAnswer asks for answers, of -MaxNewTokens",
        ["generation_num_beams"] = "Measure-TextAnswer asks for answers",
        ["rank"] = OfConfig,
        ["r"] = OfConfig,
        ["lora_alpha"] = OfConfig,
        ["lora_dropout"] = OfConfig,
        ["target_modules"] = OfConfig,
        ["generator"] = "-Seed repeats a picture",
        ["cross_attention_kwargs"] = "Set-ActiveAdapter -Weight says how strong an adapter is",
        ["lora_scale"] = "Set-ActiveAdapter -Weight says how strong an adapter is, and it is merged so",
        ["weight_name"] = "the path is the file's",
        ["streamer"] = "-Stream puts text out as it is made",
        ["input_ids"] = "-Prompt takes the text itself",
        ["inputs"] = "-Prompt takes the text itself",
        ["adapter_names"] = "-AdapterName names adapters that act together for a whole command; prompts for others are a command of their own",
        ["attention_mask"] = "-Prompt takes the text itself, and several are padded here",
        ["add_special_tokens"] = "-NoSpecialToken leaves them out",
        ["skip_special_tokens"] = "special tokens are left out unless -ShowSpecialToken is given",
    };

    /// <summary>What a name asks for that isn't done under it; null where it asks for nothing.</summary>
    /// <param name="name">The name.</param>
    /// <param name="value">Its value.</param>
    /// <returns>Whether the name is known, and what does it here.</returns>
    public static (bool IsKnown, string? Elsewhere) Find(string name, object? value)
    {
        if (s_idle.Contains(name))
        {
            return (true, null);
        }

        return s_elsewhere.TryGetValue(name, out var elsewhere) ? (true, AsksForNothing(name, value) ? null : elsewhere) : (false, null);
    }

    /// <summary>What is to be said of a name that a command has no parameter for; null where it can be passed over.</summary>
    /// <param name="cmdlet">The command.</param>
    /// <param name="name">The name.</param>
    /// <param name="value">Its value.</param>
    public static string? Complaint(PeftCmdlet cmdlet, string name, object? value)
    {
        var (isKnown, elsewhere) = Find(name, value);
        if (isKnown && (elsewhere is null || IsDoneAlready(cmdlet, name)))
        {
            return null;
        }

        if (elsewhere is not null)
        {
            return $"There is no -{name}: {elsewhere}.";
        }

        var parameters = cmdlet.MyInvocation.MyCommand.Parameters.Values.Where(static parameter => parameter.Name != SurplusArguments.ParameterName);
        return $"There is no parameter -{name}.{Spelling.DidYouMean(name, parameters.SelectMany(static parameter => parameter.Aliases.Prepend(parameter.Name)).Concat(cmdlet.OtherArgumentNames))}";
    }

    /// <summary>TensorBoard is asked for by two names in tutorials, one of which is a parameter here.</summary>
    private static bool IsDoneAlready(PeftCmdlet cmdlet, string name) => name == "report_to" && cmdlet.MyInvocation.BoundParameters.ContainsKey("LogTo");

    private static bool AsksForNothing(string name, object? value) => value switch
    {
        null => true,
        bool truth => truth == (name is "add_special_tokens" or "skip_special_tokens"),
        string text => text is "" or "none" or "no",
        IList list => list.Cast<object?>().All(item => AsksForNothing(name, item.Unwrap())),
        ICollection others => others.Count == 0,
        _ => false,
    };
}
