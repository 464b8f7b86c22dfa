"""A longer training of a real model by the peer, to hold ours to: each step's loss.

    PYTHONPATH=.../site python3.11 -S long_training.py --gguf FOLDER/MODEL.gguf --text FOLDER/passage.txt --out FOLDER [--steps 300 --length 256]

Writes into the folder: `model`, the base dequantised to float32; `adapter`, a LoRA adapter as the training begins; `rows.json`, the rows of
tokens in the order in which they are learnt; `losses.json`, the loss of each step and the options. Then

    PEFT_LONG_TRAINING=FOLDER dotnet test tests/Peft.Tests --filter FullyQualifiedName~LongTraining

trains the same and compares each step.
"""
import argparse, json, os
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

parser = argparse.ArgumentParser()
parser.add_argument("--gguf", required=True)
parser.add_argument("--text", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--length", type=int, default=256)
parser.add_argument("--rate", type=float, default=2e-4)
args = parser.parse_args()

folder, name = os.path.split(args.gguf)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
# Dequantised, though the peer's configuration still says otherwise.
model.hf_quantizer = None
model.is_quantized = False
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
model.save_pretrained(os.path.join(args.out, "model"))
tokenizer.save_pretrained(os.path.join(args.out, "model"))

ids = tokenizer(open(args.text, encoding="utf-8").read(), add_special_tokens=False)["input_ids"]
rows = [ids[at:at + args.length] for at in range(0, len(ids) - args.length + 1, args.length)]
json.dump(rows, open(os.path.join(args.out, "rows.json"), "w"))

torch.manual_seed(0)
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
model.save_pretrained(os.path.join(args.out, "adapter"))
model.train()
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=args.rate, weight_decay=0.0)
schedule = get_linear_schedule_with_warmup(optimizer, 0, args.steps)
losses = []
for step in range(args.steps):
    batch = torch.tensor([rows[step % len(rows)]])
    loss = model(input_ids=batch, labels=batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step(); schedule.step(); optimizer.zero_grad()
    losses.append(loss.item())
    if step % 20 == 0:
        print(step, losses[-1], flush=True)
json.dump({"learning_rate": args.rate, "losses": losses}, open(os.path.join(args.out, "losses.json"), "w"))
