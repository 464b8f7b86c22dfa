"""What transformers and PEFT read of a model with added tokens.

    python tokens.py MANIFEST

The manifest is a JSON file: model (an exported folder), base and adapter (an adapter on it that brings tokens), text. Writes ids and logits of the text
as MANIFEST.safetensors: model_ids, model_logits, adapter_ids, adapter_logits.
"""
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)


def main():
    path = Path(sys.argv[1])
    manifest = json.loads(path.read_text())
    found = {}
    with torch.no_grad():
        ids = AutoTokenizer.from_pretrained(manifest["model"])(manifest["text"], return_tensors="pt").input_ids
        found["model_ids"], found["model_logits"] = ids, load(manifest["model"]).eval()(input_ids=ids).logits
        tokenizer = AutoTokenizer.from_pretrained(manifest["adapter"])
        ids = tokenizer(manifest["text"], return_tensors="pt").input_ids
        base = load(manifest["base"])
        base.resize_token_embeddings(len(tokenizer))
        model = PeftModel.from_pretrained(base, manifest["adapter"]).eval()
        found["adapter_ids"], found["adapter_logits"] = ids, model(input_ids=ids).logits
    save_file({name: value.contiguous() for name, value in found.items()}, str(path) + ".safetensors")


main()
