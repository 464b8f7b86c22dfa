"""Records the maps that accelerate infers: of structures with and without shared weights, within limits that cut them in every place.

    python device_maps.py ../../references/device-maps

Writes a file a structure: its configuration, bytes of an element, and for each set of limits (device and bytes, in the order in which devices are filled) the map.
Limits are shares of the whole, moved off the places where the buffers that accelerate counts (some hundred bytes) would decide.
"""
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from accelerate import infer_auto_device_map, init_empty_weights
from accelerate.utils.modeling import compute_module_sizes
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

DECODER = dict(vocab_size=900, hidden_size=64, intermediate_size=160, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2)
STRUCTURES = {
    "llama": (AutoModelForCausalLM, "llama", DECODER | dict(tie_word_embeddings=False), torch.float32),
    "llama_tied": (AutoModelForCausalLM, "llama", DECODER | dict(tie_word_embeddings=True), torch.bfloat16),
    "llama_large_head": (AutoModelForCausalLM, "llama", DECODER | dict(vocab_size=9000, tie_word_embeddings=False), torch.bfloat16),
    "qwen2": (AutoModelForCausalLM, "qwen2", DECODER | dict(tie_word_embeddings=True), torch.float32),
    "gpt2": (AutoModelForCausalLM, "gpt2", dict(vocab_size=900, n_embd=64, n_layer=5, n_head=4, n_positions=128, tie_word_embeddings=True), torch.float32),
    "mixtral": (AutoModelForCausalLM, "mixtral", DECODER | dict(num_local_experts=4, tie_word_embeddings=False), torch.bfloat16),
    "t5": (AutoModelForSeq2SeqLM, "t5", dict(vocab_size=900, d_model=64, d_kv=16, d_ff=160, num_layers=4, num_heads=4, tie_word_embeddings=True), torch.float32),
    "bert": (AutoModelForSequenceClassification, "bert", dict(vocab_size=900, hidden_size=64, intermediate_size=160, num_hidden_layers=4, num_attention_heads=4), torch.float32),
}
SHARES = [0.03, 0.11, 0.23, 0.37, 0.52, 0.66, 0.81, 0.93, 1.04, 1.31, 2.2]


def limits(total):
    for share in SHARES:
        yield {"cpu": int(total * share)}
        yield {0: int(total * share), "cpu": 10 * total}
    for first, second in [(0.3, 0.4), (0.45, 0.2), (0.6, 0.6), (0.21, 0.9), (0.9, 0.3)]:
        yield {0: int(total * first), "cpu": int(total * second)}
        yield {0: int(total * first), 1: int(total * second), "cpu": int(total * 0.35)}


def name(device):
    return f"cuda:{device}" if isinstance(device, int) else device


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    for structure, (kind, family, settings, dtype) in STRUCTURES.items():
        config = AutoConfig.for_model(family, **settings)
        config.architectures = None
        with init_empty_weights():
            model = kind.from_config(config, dtype=dtype)
        model.tie_weights()
        total = compute_module_sizes(model)[""]
        blocks = {type(entry).__name__ for path, module in model.named_modules() if isinstance(module, torch.nn.ModuleList) and "layer" + ".0." not in path for entry in module} & set(model._no_split_modules)
        maps = []
        for limit in limits(total):
            found = infer_auto_device_map(model, max_memory=dict(limit), no_split_module_classes=list(blocks))
            modules = dict(model.named_modules())
            held = {path: device for path, device in found.items() if path == "" or any(True for _ in modules[path].parameters())} if all(path in modules for path in found) else found
            maps.append({"limits": [[name(device), size] for device, size in limit.items()], "map": {path: name(device) for path, device in held.items()}})
        architecture = type(model).__name__
        document = {"config": {"architectures": [architecture], "model_type": family, **settings}, "element_bytes": dtype.itemsize, "blocks": sorted(blocks), "maps": maps}
        (out / f"{structure}.json").write_text(json.dumps(document) + "\n")
        print(structure, architecture, total, sorted(blocks), len(maps))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
