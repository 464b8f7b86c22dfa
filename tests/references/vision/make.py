"""Records what transformers computes with tiny vision encoders of random weights.

    python make.py FOLDER      writes FOLDER/NAME/{config.json, model.safetensors, reference.safetensors}
"""
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPForImageClassification, ViTConfig, ViTForImageClassification

LABELS = {0: "circle", 1: "square", 2: "star"}
SIZES = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8)


def vit():
    return ViTForImageClassification(ViTConfig(**SIZES, id2label=LABELS))


def clip():
    text = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=20, max_position_embeddings=4)
    return CLIPForImageClassification(CLIPConfig(vision_config=dict(SIZES), text_config=text, projection_dim=8, id2label=LABELS))


def main():
    for name, make in (("vit", vit), ("clip", clip)):
        torch.manual_seed(4)
        model = make().eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        folder = Path(sys.argv[1]) / name
        model.save_pretrained(folder)
        pixels, labels = torch.randn(3, 3, 16, 16), torch.tensor([0, 2, 1])
        model.zero_grad()
        output = model(pixel_values=pixels, labels=labels)
        output.loss.backward()
        grads = {f"gradient.{key}": value.grad for key, value in model.named_parameters() if value.grad is not None}
        base = model.vit if name == "vit" else model.vision_model
        hidden = base(pixels).last_hidden_state
        save_file({key: value.detach().contiguous() for key, value in {"pixels": pixels, "labels": labels, "logits": output.logits, "loss": output.loss, "hidden": hidden, **grads}.items()},
                  folder / "reference.safetensors")
        (folder / "generation_config.json").unlink(missing_ok=True)


main()
