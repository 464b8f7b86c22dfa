"""Records the methods that the archives have no case of: AdaMSS, FRoD and Cartridge.

    python adapter_methods.py ../../references/adapter-methods

Writes tiny models and a folder a case: an adapter, case.json (the base's folder, and for AdaMSS which clusters learn after each step of an allocation) and
io.safetensors (input_ids, labels, logits, merged_logits where the method merges, loss and gradients by the keys of the adapter's file, counts). AdaMSS needs
scikit-learn 1.3 or later. FRoD is recorded before it is saved: what PEFT computes again when it reads a file differs from one processor to the next.
"""
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from peft import AdamssConfig, CartridgeConfig, FrodConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

LEARNING_RATE = 0.05


def bases(root):
    torch.manual_seed(0)
    models = {
        "even": LlamaForCausalLM(LlamaConfig(vocab_size=29, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32)),
        "odd": LlamaForCausalLM(LlamaConfig(vocab_size=31, hidden_size=18, intermediate_size=23, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=1, max_position_embeddings=32, attention_bias=True, mlp_bias=True)),
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=12, n_layer=2, n_head=3, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)),
    }
    for name, model in models.items():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
        model.save_pretrained(root / name)


def load(root, base):
    return AutoModelForCausalLM.from_pretrained(root / base, attn_implementation="eager", dtype=torch.float32).eval()


def disturb(model, seed, size):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def batch(seed):
    return torch.randint(3, 29, (2, 6), generator=torch.Generator().manual_seed(seed))


def record(root, case, base, config, seed, size=0.3, merges=True):
    torch.manual_seed(seed)
    model = get_peft_model(load(root, base), config)
    trainable, total = model.get_nb_trainable_parameters()
    disturb(model, seed, size)
    model.save_pretrained(root / case / "adapter")
    ids = batch(seed + 1)
    tensors = {"input_ids": ids, "labels": ids.clone()}
    with torch.no_grad():
        tensors["logits"] = model.eval()(input_ids=ids).logits
    model.train()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    tensors["loss"] = loss.detach()
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            tensors["grad." + key.replace(".default", "")] = parameter.grad
    if merges:
        with torch.no_grad():
            tensors["merged_logits"] = model.eval().merge_and_unload()(input_ids=ids).logits
    save_file({key: value.contiguous() for key, value in tensors.items()}, root / case / "io.safetensors")
    (root / case / "case.json").write_text(json.dumps({"peer": "peft 0.21.0", "base": base, "trainable": trainable, "total": total}, indent=1) + "\n")


def allocation(root, case, base, config, seed, steps):
    """Plain gradient descent on one batch a step, with PEFT's allocation after each: which clusters learn, and where the factors end."""
    torch.manual_seed(seed)
    model = get_peft_model(load(root, base), config)
    disturb(model, seed, 0.3)
    model.save_pretrained(root / case / "adapter")
    ids = batch(seed + 1)
    learning = []
    for step in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-LEARNING_RATE)
        model.base_model.update_and_allocate(step)
        learning.append([key.replace(".default", "") for key, parameter in model.named_parameters() if parameter.requires_grad])
        model.zero_grad()
    ends = {key.replace(".default", ""): value.contiguous() for key, value in model.named_parameters() if "adamss_A" in key or "adamss_B" in key}
    save_file({"input_ids": ids, "labels": ids.clone(), **{"end." + key: value.detach() for key, value in ends.items()}}, root / case / "io.safetensors")
    (root / case / "case.json").write_text(json.dumps({"peer": "peft 0.21.0", "base": base, "rate": LEARNING_RATE, "learning": learning}) + "\n")


def clean(root):
    for path in root.rglob("README.md"):
        path.unlink()
    for path in root.rglob("generation_config.json"):
        path.unlink()
    for path in root.rglob("adapter_config.json"):
        config = json.loads(path.read_text())
        config["base_model_name_or_path"] = json.loads((path.parent.parent / "case.json").read_text())["base"]
        path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def main():
    root = Path(sys.argv[1])
    root.mkdir(parents=True, exist_ok=True)
    bases(root)

    def adamss(targets, **fields):
        return AdamssConfig(target_modules=targets, task_type="CAUSAL_LM", **fields)

    record(root, "adamss_plain", "even", adamss(["q_proj", "down_proj"], r=5, num_subspaces=3), 11)
    record(root, "adamss_bias", "odd", adamss(["k_proj", "up_proj"], r=4, num_subspaces=4, subspace_rank=2, random_seed=6), 12)
    record(root, "adamss_dynamic", "odd", adamss(["q_proj", "down_proj"], r=6, num_subspaces=3, subspace_rank=3, use_dynamic_rank=True, svd_threshold=0.3), 13)
    record(root, "adamss_random", "even", adamss(["v_proj", "gate_proj"], r=3, num_subspaces=2, init_weights=None), 14)
    allocation(root, "adamss_allocation", "even", adamss(["q_proj", "v_proj"], r=5, num_subspaces=4, use_asa=True, asa_target_subspaces=5, init_warmup=2, final_warmup=14, mask_interval=3), 15, 18)
    allocation(root, "adamss_allocation_linear", "odd", adamss(["v_proj"], r=3, num_subspaces=3, subspace_rank=2, use_asa=True, asa_target_subspaces=3, init_warmup=0, final_warmup=8, mask_interval=2, asa_schedule_exponent=1.0, asa_importance_beta=0.6, asa_uncertainty_beta=0.9), 16, 10)

    def frod(targets, **fields):
        return FrodConfig(target_modules=targets, task_type="CAUSAL_LM", progressbar=False, **fields)

    record(root, "frod_plain", "even", frod(["q_proj", "down_proj"], sparse_rate=0.1), 21, 0.1)
    record(root, "frod_bias", "odd", frod(["k_proj", "up_proj", "gate_proj"], sparse_rate=0.03, projection_prng_key=5, regularization_alpha=0.01, bias="frod_only"), 22, 0.1)
    record(root, "frod_dense", "odd", frod("all-linear", sparse_rate=1.0), 23, 0.05)
    record(root, "frod_none", "even", frod(["v_proj"], sparse_rate=0.0), 24, 0.1)
    record(root, "frod_transposed", "gpt2", frod(["c_attn", "mlp.c_proj"], sparse_rate=0.05, fan_in_fan_out=True), 25, 0.1)

    def cartridge(**fields):
        return CartridgeConfig(task_type="CAUSAL_LM", **fields)

    record(root, "cartridge_plain", "even", cartridge(num_virtual_tokens=4), 31, merges=False)
    record(root, "cartridge_odd", "odd", cartridge(num_virtual_tokens=5, num_frozen_tokens=2), 32, merges=False)
    record(root, "cartridge_unfrozen", "gpt2", cartridge(num_virtual_tokens=3, num_frozen_tokens=0), 33, merges=False)
    clean(root)


main()
