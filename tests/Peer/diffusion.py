"""What diffusers and LyCORIS compute with adapter files of diffusion models that Peft wrote.

    python diffusion.py MANIFEST

The manifest is a JSON file: model (folder in diffusers' layout), inputs (safetensors with sample, timestep, states and input_ids), files (objects with
path, reader: diffusers, lycoris or inversion, and scales: diffusers' strengths, a number or a table by block). Beside each file there will be a
FILE.outputs with the tensors unet and text_encoder, or a FILE.error where the reader can't load it. checkpoint, where it is there, is a safetensors file to write as .ckpt beside it.
"""
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel


class TextModel(torch.nn.Module):
    """A text encoder under the paths that adapter files have, whatever those of this transformers are."""

    def __init__(self, model):
        super().__init__()
        self.text_model = model

    def forward(self, ids):
        return self.text_model(ids)


def classic(text):
    return text if hasattr(text, "text_model") else TextModel(text)


def through_diffusers(unet, text, path, scales):
    state, alphas = StableDiffusionPipeline.lora_state_dict(str(path))
    StableDiffusionPipeline.load_lora_into_unet(state, network_alphas=alphas, unet=unet, adapter_name="a")
    if scales is not None:
        unet.set_adapters(["a"], [scales])
    if any(key.startswith("text_encoder.") for key in state):
        StableDiffusionPipeline.load_lora_into_text_encoder(state, network_alphas=alphas, text_encoder=text, adapter_name="a")
    return unet, text


def through_lycoris(unet, text, path):
    from lycoris.kohya import LycorisNetworkKohya, create_network_from_weights

    # Time embeddings match by class and by name, which LyCORIS refuses.
    LycorisNetworkKohya.UNET_TARGET_REPLACE_MODULE = [name for name in LycorisNetworkKohya.UNET_TARGET_REPLACE_MODULE if name != "TimestepEmbedding"]
    text = classic(text)
    network, _ = create_network_from_weights(1.0, str(path), None, text, unet)
    network.apply_to(text, unet, True, True)
    unet.network, text.network = network.eval(), network
    return unet, text


def write(manifest, entry, inputs):
    path = Path(entry["path"])
    unet = UNet2DConditionModel.from_pretrained(manifest["model"], subfolder="unet").eval()
    text = CLIPTextModel.from_pretrained(manifest["model"], subfolder="text_encoder").eval()
    if entry["reader"] == "inversion":
        (vectors,) = load_file(path).values()
        table = text.get_input_embeddings().weight
        rows = torch.cat([table.detach(), vectors])
        states = torch.nn.functional.embedding(inputs["input_ids"], rows)
        text.set_input_embeddings(torch.nn.Embedding.from_pretrained(rows))
        outputs = {"text_encoder": text(inputs["input_ids"]).last_hidden_state, "embeddings": states}
    else:
        unet, text = through_lycoris(unet, text, path) if entry["reader"] == "lycoris" else through_diffusers(unet, text, path, entry.get("scales"))
        ids = inputs["input_ids"].clamp_max(text.text_model.get_input_embeddings().num_embeddings - 1 if isinstance(text, TextModel) else text.get_input_embeddings().num_embeddings - 1)
        outputs = {"unet": unet(inputs["sample"], inputs["timestep"], inputs["states"]).sample, "text_encoder": text(ids).last_hidden_state}
    save_file({name: value.detach().contiguous() for name, value in outputs.items()}, f"{path}.outputs")


def main():
    manifest = json.loads(Path(sys.argv[1]).read_text())
    inputs = load_file(manifest["inputs"])
    if "checkpoint" in manifest:
        # As trainers wrote them before safetensors.
        source = Path(manifest["checkpoint"])
        torch.save({"state_dict": load_file(source), "global_step": 1, "epoch": 0}, source.with_suffix(".ckpt"))
    for entry in manifest["files"]:
        try:
            with torch.no_grad():
                write(manifest, entry, inputs)
        except Exception as error:
            Path(entry["path"] + ".error").write_text(f"{type(error).__name__}: {error}")


main()
