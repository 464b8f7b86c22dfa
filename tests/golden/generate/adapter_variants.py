"""Records LoRA's variants that the archives have no case of: Arrow, QALoRA, VeLoRA and MonteCLoRA.

    python adapter_variants.py ../../references/adapter-variants

Writes a tiny Llama (base) and a folder a case: adapters (folders by their names), case.json (which of them are loaded, in which order, and which acts) and
io.safetensors (input_ids, labels, logits, loss and gradients of what the acting adapter trains, by the keys of its file; what MonteCLoRA drew, by module).
PEFT forms QALoRA over GPTQ layers alone, whose package needs an accelerator: its variant is put on plain layers here.
"""
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from peft import ArrowConfig, LoraConfig, PeftModel, create_arrow_model, get_peft_model
from peft.tuners.lora import layer as lora_layer
from peft.tuners.lora.config import MontecloraConfig, VeloraConfig
from peft.tuners.lora.variants import QALoraLinearVariant
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

TARGETS = ["q_proj", "down_proj"]


def base(root):
    return AutoModelForCausalLM.from_pretrained(root / "base", attn_implementation="eager", dtype=torch.float32).eval()


def disturb(model, name, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key and f".{name}." in key:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def record(root, case, model, active, folders, gradients=True):
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(3, 29, (2, 6), generator=generator)
    tensors = {"input_ids": ids, "labels": ids.clone()}
    with torch.no_grad():
        tensors["logits"] = model.eval()(input_ids=ids).logits
    if gradients:
        model.train()
        for key, module in model.named_modules():
            if key.endswith(f"lora_monteclora_sampler.{active}"):
                drawn = module.sampler.buffer[0]
                place = "draw." + key.removeprefix("base_model.model.").removesuffix(f".lora_monteclora_sampler.{active}")
                tensors[place + ".noise"] = drawn["z_mvn"]
                tensors[place + ".spread"] = drawn["z_wishart"].diag().clone()
                tensors[place + ".shares"] = drawn["z_dirichlet"]
        loss = model(input_ids=ids, labels=ids).loss + model.base_model._get_monteclora_loss()
        loss.backward()
        tensors["loss"] = loss.detach()
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                tensors["grad." + key.replace(f".{active}", "")] = parameter.grad
    save_file({key: value.contiguous() for key, value in tensors.items()}, root / case / "io.safetensors")
    (root / case / "case.json").write_text(json.dumps({"peer": "peft 0.21.0", "adapters": folders, "active": active}, indent=1) + "\n")


def plain(root, case, folder, seed, **fields):
    model = get_peft_model(base(root), LoraConfig(r=2, lora_alpha=3, target_modules=TARGETS, task_type="CAUSAL_LM", **fields))
    disturb(model, "default", seed)
    model.save_pretrained(root / case / folder)
    return model


def clean(root):
    for path in root.rglob("README.md"):
        path.unlink()
    for path in root.rglob("adapter_config.json"):
        config = json.loads(path.read_text())
        config["base_model_name_or_path"] = "base"
        path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def arrow(root, case, gks):
    for i in range(3):
        plain(root, case, f"task_{i}", 10 + i)
    general = []
    if gks:
        for i in range(2):
            plain(root, case, f"gks_{i}", 20 + i)
        general = [str(root / case / f"gks_{i}") for i in range(2)]
    tasks = [str(root / case / f"task_{i}") for i in range(3)]
    model = create_arrow_model(base(root), tasks, ArrowConfig(top_k=2, router_temperature=0.7, use_gks=gks, rng_seed=5), general)
    model.save_pretrained(root / case, selected_adapters=["arrow_router"])
    names = [f"task_{i}" for i in range(3)] + [f"gks_{i}" for i in range(len(general))] + ["arrow_router"]
    record(root, case, model, "arrow_router", names, gradients=False)


def main():
    root = Path(sys.argv[1])
    root.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=29, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(root / "base")
    arrow(root, "arrow", gks=False)
    arrow(root, "arrow_gks", gks=True)
    for init in ("batch_average", "batch_average_once", "random"):
        model = plain(root, f"velora_{init}", "adapter", 31, velora_config=VeloraConfig(num_groups=4, scale=1.5, init_type=init))
        record(root, f"velora_{init}", model, "default", ["adapter"])
    for entropy in (False, True):
        settings = MontecloraConfig(num_samples=3, use_entropy=entropy, dirichlet_prior=0.4, sample_scaler=0.1, kl_loss_weight=0.01, buffer_size=1)
        model = plain(root, f"monteclora_{entropy}".lower(), "adapter", 51, monteclora_config=settings)
        record(root, f"monteclora_{entropy}".lower(), model, "default", ["adapter"])
    resolve = lora_layer.LoraLayer.resolve_lora_variant
    lora_layer.LoraLayer.resolve_lora_variant = lambda self, *, config, **_: QALoraLinearVariant() if config.use_qalora else resolve(self, config=config)
    model = plain(root, "qalora", "adapter", 41, use_qalora=True, qalora_group_size=4)
    record(root, "qalora", model, "default", ["adapter"])
    clean(root)


main()
