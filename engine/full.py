"""Full fine-tuning, the paper's "SFT" in its Table 6: every parameter is trained, the result is a checkpoint.

No adapter and no role has a part in it: train.py runs the model as it is, with plain linears.
"""

import json
import shutil
from pathlib import Path

import torch
from torch import nn

from cli import read_object, write_whole
from engine.tensors import save_file
from formats.checkpoint import WANTED, WEIGHTS
from formats.frames import TRAINED_WITH, Frame
from model import Transformer

BESIDE = (  # what belongs to a checkpoint as well, and is copied from the base where it has it
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model"),
    *("generation_config.json", "chat_template.jinja"),
)


class Masters:
    """All that is trained, in float32: a parameter itself where that is its dtype, else a copy.

    AdamW moves what stands here: a bfloat16 number has 8 bits, and a step of a thousandth of it is lost.
    Adapters are float32 in any model, so of them there are no copies.
    """

    def __init__(self, model: nn.Module):
        self.parameters: dict[str, nn.Parameter] = {}  # sorted by name
        self.copied: list[tuple[nn.Parameter, nn.Parameter]] = []  # of the model, and its copy
        for name, parameter in sorted(model.named_parameters()):
            if not parameter.requires_grad:
                continue
            wide = torch.promote_types(parameter.dtype, torch.float32)
            self.parameters[name] = parameter
            if parameter.dtype != wide:
                self.parameters[name] = nn.Parameter(parameter.detach().to(wide))
                self.copied.append((parameter, self.parameters[name]))

    def gather(self) -> None:
        """After a backward: add the gradients of the model's parameters to those of the copies."""
        for parameter, copy in self.copied:
            if parameter.grad is not None:
                copy.grad += parameter.grad
                parameter.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """After a step: the model's parameters become the copies, rounded."""
        for parameter, copy in self.copied:
            parameter.copy_(copy)


def save_checkpoint(model: Transformer, frame: Frame, folder: Path) -> None:
    """Write a folder that --model and transformers load; the weights last, as a reader looks for them.

    config.json also says how the model was prompted, which load_frame reads. Raises UserError.
    """
    for name in BESIDE:
        if (frame.folder / name).exists():
            write_whole(folder / name, lambda path, name=name: shutil.copyfile(frame.folder / name, path))
    config = read_object(frame.folder / "config.json", WANTED)
    config.pop("dtype", None)
    config["torch_dtype"] = str(model.lm_head.weight.dtype).removeprefix("torch.")
    config[TRAINED_WITH] = {"frame": frame.name, "prompts": frame.prompts}
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / "config.json", lambda path: path.write_text(text, encoding="utf-8"))
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    write_whole(folder / WEIGHTS, lambda path: save_file(tensors, path, {"format": "pt"}))
