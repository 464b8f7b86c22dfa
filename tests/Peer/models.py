"""What transformers makes of model folders that Peft saved.

    python models.py MANIFEST

The manifest is a JSON file: models (folders) and texts. Every folder gets peer.json with the ids of each text, the ids that end a text and
the chat template, and logits.safetensors with the ids of a row (ids) and what the model gives for them (logits).
"""
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    manifest = json.loads(Path(sys.argv[1]).read_text())
    for folder in map(Path, manifest["models"]):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
        end = model.generation_config.eos_token_id
        (folder / "peer.json").write_text(json.dumps({
            "texts": [tokenizer(text)["input_ids"] for text in manifest["texts"]],
            "end": end if isinstance(end, list) else [] if end is None else [end],
            "template": tokenizer.chat_template,
        }))
        ids = torch.arange(1, 9).remainder(model.config.vocab_size).view(1, -1)
        with torch.no_grad():
            save_file({"ids": ids, "logits": model(input_ids=ids).logits.contiguous()}, folder / "logits.safetensors")


main()
