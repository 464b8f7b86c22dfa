"""Record what transformers' generate gives: greedy and beam search, on decoders and encoder-decoders, with its rules.

    python3 generation.py OUT_FOLDER

Makes tiny random models and writes OUT_FOLDER/MODEL/ and OUT_FOLDER/reference.json: for each case the prompts, the options, the ids that were added
to each prompt (up to the one that ended the text) and, of a search, the scores.
"""
import json, os, sys
import torch
import transformers
from transformers import BartConfig, BartForConditionalGeneration, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

VOCABULARY, END, PAD = 48, 1, 0


def models():
    sizes = dict(d_model=16, vocab_size=VOCABULARY, pad_token_id=PAD, eos_token_id=END)
    yield "t5", T5ForConditionalGeneration(T5Config(d_kv=6, num_heads=3, d_ff=32, num_layers=2, num_decoder_layers=2, decoder_start_token_id=PAD, feed_forward_proj="gated-gelu", tie_word_embeddings=False, **sizes))
    yield "bart", BartForConditionalGeneration(BartConfig(
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=40,
        bos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None, **sizes))
    yield "llama", LlamaForCausalLM(LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, vocab_size=VOCABULARY, max_position_embeddings=64,
        pad_token_id=PAD, eos_token_id=END, bos_token_id=2, tie_word_embeddings=False))


def options(is_encoder_decoder):
    yield {}
    yield dict(use_cache=False)
    yield dict(repetition_penalty=1.4)
    yield dict(no_repeat_ngram_size=2)
    yield dict(encoder_repetition_penalty=1.8)
    yield dict(encoder_no_repeat_ngram_size=2)
    yield dict(min_new_tokens=6)
    yield dict(suppress_tokens=[7, 8, 9, END])
    yield dict(begin_suppress_tokens=list(range(10, 30)))
    yield dict(bad_words_ids=[[5], [11, 12]], sequence_bias=[[[20], 2.5], [[3, 4], -5.0]])
    yield dict(forced_eos_token_id=END)
    yield dict(remove_invalid_values=True)
    yield dict(eos_token_id=[END, 23, 31])
    yield dict(exponential_decay_length_penalty=[3, 1.6])
    if is_encoder_decoder:
        yield dict(forced_bos_token_id=9)
        yield dict(forced_bos_token_id=9, begin_suppress_tokens=list(range(10, 30)))
        yield dict(decoder_start_token_id=17)
        yield dict(min_length=7, max_length=9, max_new_tokens=None)
    for stopping in (False, True, "never"):
        for penalty in (1.0, 2.0, 0.0, -1.0):
            yield dict(num_beams=3, early_stopping=stopping, length_penalty=penalty, num_return_sequences=2)
    yield dict(num_beams=4)
    yield dict(num_beams=2, use_cache=False, num_return_sequences=2)
    yield dict(num_beams=3, eos_token_id=[END, 23, 31], num_return_sequences=3, early_stopping=True)
    yield dict(num_beams=3, no_repeat_ngram_size=2, repetition_penalty=1.3, num_return_sequences=3)
    yield dict(num_beams=3, renormalize_logits=True, suppress_tokens=[7, 8, 9], num_return_sequences=3)
    yield dict(num_beams=3, min_new_tokens=5, length_penalty=-2.0, num_return_sequences=3)
    yield dict(num_beams=3, forced_eos_token_id=END, encoder_no_repeat_ngram_size=2, num_return_sequences=3)


def run(model, prompts, given):
    is_pair = model.config.is_encoder_decoder
    longest = max(map(len, prompts))
    fill = [[PAD] * (longest - len(p)) for p in prompts]
    ids = torch.tensor([(p + f) if is_pair else (f + p) for p, f in zip(prompts, fill)])
    mask = torch.tensor([([1] * len(p) + [0] * len(f)) if is_pair else ([0] * len(f) + [1] * len(p)) for p, f in zip(prompts, fill)])
    arguments = dict(max_new_tokens=10, do_sample=False) | given
    if arguments.get("max_new_tokens") is None:
        arguments.pop("max_new_tokens")
    if "sequence_bias" in arguments:
        arguments["sequence_bias"] = [list(entry) for entry in arguments["sequence_bias"]]
    if "exponential_decay_length_penalty" in arguments:
        arguments["exponential_decay_length_penalty"] = tuple(arguments["exponential_decay_length_penalty"])
    out = model.generate(input_ids=ids, attention_mask=mask, return_dict_in_generate=True, output_scores=given.get("num_beams", 1) > 1, **arguments)
    ends = arguments.get("eos_token_id", END)
    ends = ends if isinstance(ends, list) else [ends]
    added = []
    for row in out.sequences[:, 1 if is_pair else longest:].tolist():
        stop = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
        added.append(row[:stop])
    return added, [round(s, 6) for s in out.sequences_scores.tolist()] if given.get("num_beams", 1) > 1 else None


def main(out):
    cases = []
    for seed, (name, model) in enumerate(models()):
        torch.manual_seed(40 + seed)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.7)
        model.eval()
        model.generation_config = transformers.GenerationConfig(decoder_start_token_id=model.config.decoder_start_token_id if model.config.is_encoder_decoder else None, eos_token_id=END, pad_token_id=PAD)
        model.save_pretrained(os.path.join(out, name))
        drawn = torch.randint(3, VOCABULARY, (3, 9)).tolist()
        for given in options(model.config.is_encoder_decoder):
            # Rules about the prompt, and those that count from a row's beginning, take padding for tokens; those prompts are of one length.
            counts = any(name.startswith("encoder_") or name == "exponential_decay_length_penalty" for name in given)
            prompts = [p[:n] for p, n in zip(drawn, (6, 6, 6) if counts else (6, 9, 4))]
            added, scores = run(model, prompts, given)
            cases.append(dict(model=name, prompts=prompts, options=dict(max_new_tokens=10) | given, added=added, scores=scores))
    with open(os.path.join(out, "reference.json"), "w") as file:
        json.dump(dict(peer=f"transformers {transformers.__version__}, torch {torch.__version__}", tolerance=dict(atol=1e-4, rtol=5e-5), cases=cases), file, separators=(",", ":"))
        file.write("\n")
    print(len(cases), "cases;", sum(row[-1] == END for case in cases for row in case["added"]), "texts end by themselves")


main(sys.argv[1])
