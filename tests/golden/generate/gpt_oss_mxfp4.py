"""A tiny gpt-oss whose experts lie in its file as MXFP4, as the published ones do, and what transformers computes of it, dequantised.

    PYTHONPATH=.../site python3.11 -S gpt_oss_mxfp4.py tests/references/gpt-oss-mxfp4

Writes the model's folder, with `reference.safetensors` (ids, logits) and `reference.json` (tokens that greedy generation adds).
"""
import json, os, sys
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM, Mxfp4Config

folder = sys.argv[1]
torch.manual_seed(7)
config = GptOssConfig(
    vocab_size=96, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    num_local_experts=4, num_experts_per_tok=2, sliding_window=4, max_position_embeddings=64,
    rope_parameters={"rope_type": "yarn", "rope_theta": 150.0, "factor": 4.0, "beta_fast": 4.0, "beta_slow": 0.5, "truncate": False, "original_max_position_embeddings": 16},
    bos_token_id=None, eos_token_id=95, pad_token_id=0, tie_word_embeddings=False)
model = GptOssForCausalLM(config)
for name, parameter in model.named_parameters():
    parameter.data = torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.5) + (1.0 if name.endswith("norm.weight") else 0.0)
model.to(torch.bfloat16).save_pretrained(folder)

path = os.path.join(folder, "model.safetensors")
tensors = load_file(path)
for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
    experts, inputs, outputs = tensors.pop(name).shape
    tensors[name + "_blocks"] = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
    tensors[name + "_scales"] = torch.randint(122, 126, (experts, outputs, inputs // 32), dtype=torch.uint8)
save_file(tensors, path, metadata={"format": "pt"})

path = os.path.join(folder, "config.json")
document = json.load(open(path))
document["quantization_config"] = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
}
json.dump(document, open(path, "w"), indent=2)

model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager", quantization_config=Mxfp4Config(dequantize=True)).eval()
assert model.model.layers[0].mlp.experts.gate_up_proj.dtype == torch.float32
ids = torch.randint(1, 95, (2, 11))
with torch.no_grad():
    output = model(ids)
    added = model.generate(ids, max_new_tokens=8, do_sample=False)[:, ids.shape[1]:]
    exact = model.double()(ids)
save_file({"ids": ids, "logits": output.logits}, os.path.join(folder, "reference.safetensors"))
json.dump({"added": added.tolist(), "atol": max(1e-6, 10 * (output.logits - exact.logits).abs().max().item())}, open(os.path.join(folder, "reference.json"), "w"))
print(output.logits.abs().max(), (output.logits - exact.logits).abs().max(), added)
