"""Record what transformers' generate draws in a search that samples, and the rules that then keep more than one token.

    python3 beam_sampling.py FOLDER

Reads the models that generation.py made in FOLDER and writes FOLDER/beam_sampling.json: `rules`, scores before and after a rule with the least number
of tokens it keeps; `draws`, for each case how often each continuation came; `configurations`, what generate takes from a config.json without a
generation_config.json beside it.
"""
import collections, json, os, sys
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig
from transformers.generation import logits_process as rules

PROMPT, RUNS, ROWS = [5, 9, 30, 7], 40, 500
LEGACY = dict(num_beams=4, max_length=142, min_length=56, no_repeat_ngram_size=3, length_penalty=2.0, early_stopping=True, forced_bos_token_id=0,
              forced_eos_token_id=2, decoder_start_token_id=2, temperature=0.7, do_sample=False, diversity_penalty=0.0, num_beam_groups=1, penalty_alpha=0.6)


def warped():
    torch.manual_seed(3)
    for scale in (0.3, 3.0):
        scores = torch.randn(1, 12) * scale
        scores[0, 4] = scores[0, 7]
        for keep in (1, 2, 4):
            yield from ((name, value, keep, scores, rule(scores)) for name, value, rule in (
                ("top_k", 1, lambda s: rules.TopKLogitsWarper(1, min_tokens_to_keep=keep)(None, s)),
                ("top_p", 0.2, lambda s: rules.TopPLogitsWarper(0.2, min_tokens_to_keep=keep)(None, s)),
                ("min_p", 0.9, lambda s: rules.MinPLogitsWarper(0.9, min_tokens_to_keep=keep)(None, s)),
                ("typical_p", 0.1, lambda s: rules.TypicalLogitsWarper(0.1, min_tokens_to_keep=keep)(None, s)),
                ("epsilon_cutoff", 0.5, lambda s: rules.EpsilonLogitsWarper(0.5, min_tokens_to_keep=keep)(None, s)),
                ("eta_cutoff", 0.5, lambda s: rules.EtaLogitsWarper(0.5, min_tokens_to_keep=keep)(None, s))))


def drawn(folder):
    for name, kind, options in (
            ("llama", AutoModelForCausalLM, dict(num_beams=2, top_k=3, max_new_tokens=2)),
            ("llama", AutoModelForCausalLM, dict(num_beams=3, top_p=0.3, temperature=1.5, top_k=0, max_new_tokens=2, num_return_sequences=2)),
            ("t5", AutoModelForSeq2SeqLM, dict(num_beams=2, top_k=2, max_new_tokens=3, length_penalty=2.0, early_stopping=True))):
        model = kind.from_pretrained(os.path.join(folder, name)).eval()
        counts = collections.Counter()
        torch.manual_seed(11)
        skip = 1 if model.config.is_encoder_decoder else len(PROMPT)
        for _ in range(RUNS):
            rows = model.generate(torch.tensor([PROMPT] * ROWS), do_sample=True, **options)[:, skip:].tolist()
            each = options.get("num_return_sequences", 1)
            for at in range(0, len(rows), each):
                texts = [row[:row.index(1) + 1] if 1 in row else row for row in rows[at:at + each]]
                counts[json.dumps(texts)] += 1
        yield dict(model=name, prompt=PROMPT, options=options | dict(do_sample=True), runs=RUNS * ROWS,
                   counts=[dict(added=json.loads(texts), count=count) for texts, count in counts.most_common(12)])
        print(name, options, len(counts), counts.most_common(3))


def configured(folder):
    for model_config in (LEGACY | dict(model_type="bart"), dict(model_type="gemma3", num_beams=2, text_config=dict(num_beams=3, min_length=5, temperature=0.5))):
        given = json.loads(json.dumps(model_config))
        taken = GenerationConfig.from_model_config(given).to_dict()
        yield dict(config=model_config, taken={name: value for name, value in taken.items() if value is not None and name not in ("transformers_version", "_from_model_config")})


def main(folder):
    numbers = lambda tensor: [None if value == float("-inf") else value for value in tensor[0].tolist()]
    document = dict(
        peer=f"transformers {transformers.__version__}, torch {torch.__version__}",
        rules=[dict(name=name, value=value, keep=keep, scores=numbers(before), kept=numbers(after)) for name, value, keep, before, after in warped()],
        configurations=list(configured(folder)),
        draws=list(drawn(folder)))
    with open(os.path.join(folder, "beam_sampling.json"), "w") as file:
        json.dump(document, file, separators=(",", ":"))
        file.write("\n")


main(sys.argv[1])
