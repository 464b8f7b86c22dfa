"""What PEFT computes with adapters that Peft saved, and adapters that PEFT made for Peft to load.

    python adapters.py MANIFEST

The manifest is a JSON file: base (model folder), inputs (safetensors with input_ids), ours (adapter folders to load), theirs (objects with
folder and configuration: adapters to make and save). Every folder gets a logits.safetensors with the tensor logits, or an
error.txt where PEFT can't load what lies there.
"""
import json
import os
import sys
import types
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

try:
    import setuptools  # noqa: F401
except ModuleNotFoundError:
    # PEFT asks torch to compile BOFT's kernel and does without where that fails; torch's module for it can't even be imported without this package.
    def load(**_):
        raise RuntimeError("nothing is compiled here")

    sys.modules["torch.utils.cpp_extension"] = types.ModuleType("torch.utils.cpp_extension")
    sys.modules["torch.utils.cpp_extension"].load = load


def base(manifest):
    return AutoModelForCausalLM.from_pretrained(manifest["base"], attn_implementation="eager", dtype=torch.float32).eval()


def write_logits(model, ids, folder):
    kinds = {str(getattr(config.peft_type, "value", config.peft_type)) for config in model.peft_config.values()}
    tasks = {"task_ids": torch.zeros(ids.shape[0], dtype=torch.long)} if kinds & {"POLY", "MULTITASK_PROMPT_TUNING"} else {}
    with torch.no_grad():
        save_file({"logits": model.eval()(input_ids=ids, **tasks).logits.contiguous()}, Path(folder) / "logits.safetensors")


def main():
    manifest = json.loads(Path(sys.argv[1]).read_text())
    ids = load_file(manifest["inputs"])["input_ids"]
    for folder in manifest["ours"]:
        try:
            write_logits(PeftModel.from_pretrained(base(manifest), folder), ids, folder)
        except Exception as error:
            (Path(folder) / "error.txt").write_text(f"{type(error).__name__}: {error}")
    for seed, entry in enumerate(manifest["theirs"]):
        generator = torch.Generator().manual_seed(seed)
        model = get_peft_model(base(manifest), LoraConfig(**entry["configuration"]))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(entry["folder"])
        write_logits(model, ids, entry["folder"])


main()
