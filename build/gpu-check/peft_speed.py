"""PEFT's side of SpeedChecks.cs: one line with tokens a second and memory of the device.

    python3 peft_speed.py DEVICE CONFIG ROWS LENGTH STEPS WARM_UP
"""
import json
import statistics
import subprocess
import sys
import time

import peft
import torch
import transformers

device, config = sys.argv[1], json.loads(sys.argv[2])
rows, length, steps, warm_up = map(int, sys.argv[3:])


def used():
    if device == "cpu":
        return 0
    answer = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], capture_output=True, text=True)
    return int(answer.stdout.split()[0]) << 20


def wait():
    if device != "cpu":
        torch.cuda.synchronize()


before = used()
torch.set_default_dtype(torch.bfloat16)
with torch.device(device):
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
model = peft.get_peft_model(base, peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
model.train()
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimiser = torch.optim.AdamW(trained, lr=1e-4)
seconds = []
for step in range(steps + warm_up):
    ids = torch.randint(5, config["vocab_size"], (rows, length), device=device)
    wait()
    start = time.perf_counter()
    model(input_ids=ids, labels=ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimiser.step()
    optimiser.zero_grad()
    wait()
    if step >= warm_up:
        seconds.append(time.perf_counter() - start)

memory = used() - before
model.eval()
new_tokens = 128
prompt = torch.arange(5, 37, device=device).unsqueeze(0)
best = float("inf")
for _ in range(2):
    wait()
    start = time.perf_counter()
    model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0)
    wait()
    best = min(best, time.perf_counter() - start)

print(f"{rows * length / statistics.median(seconds):,.0f} tokens/s, {memory / 1e9:.1f} GB; generation {new_tokens / best:.1f} tokens/s (peft {peft.__version__}, torch {torch.__version__})")
