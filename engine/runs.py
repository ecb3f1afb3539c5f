"""The output folder of a training run: metrics, saves, and what --resume needs to go on bit for bit."""

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cli import UserError, exclusive, parse_object, remove_left_overs, write_whole
from engine.adapter import save_adapter
from engine.dataset import Trajectories
from engine.full import Masters, save_checkpoint
from engine.sharding import collect, whole
from engine.tensors import CHECKSUM, load_file, save_file
from formats.frames import Frame
from model import Transformer

STATE, METRICS, ARGS = "training_state.safetensors", "metrics.jsonl", "train_args.json"

MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps for a parameter, beside the number of steps
FREE = (  # flags that may change when a run goes on; --max-length and --overlong show in the data
    *("quick", "show", "device", "output", "resume", "save_every", "log_every", "eval_data", "eval_limit"),
    *("gradient_checkpointing", "cache", "max_length", "overlong", "fsdp"),
)


def check_output(folder: Path, resume: bool) -> None:
    """Raises UserError when there is nothing to resume, or when a fresh run would overwrite another."""
    if resume and not (folder / STATE).exists():
        raise UserError(f"--resume: {folder} has no {STATE}, no run to go on with; drop --resume")
    results = "adapter_model.safetensors", "model.safetensors"
    found = [name for name in (STATE, *results) if (folder / name).exists()]
    if found and not resume:
        raise UserError(
            f"--output: {folder} holds a run ({found[0]}); go on with it by --resume or choose another folder"
        )


@contextmanager
def claimed(folder: Path, resume: bool, writes: bool) -> Iterator[None]:
    """Within it, no other run writes to the output folder; of a run's processes, the first one holds it.

    Raises UserError for a folder in use, and as check_output.
    """
    if not writes:  # a slower process could find what the first one has begun to write
        yield
        return
    check_output(folder, resume)  # before anything is made in it
    with exclusive(folder / METRICS, "choose another --output"):
        check_output(folder, resume)  # another run may have ended meanwhile
        yield


def settings_of(args: argparse.Namespace, trajectories: Trajectories, model: Transformer) -> dict:
    """What decides the course of a run, as JSON values: flags, and digests of the data and the base model."""
    settings = {name: value for name, value in vars(args).items() if name not in FREE}
    rendered = hashlib.sha256(trajectories.digests.tobytes())
    norm = whole(model.model.norm.weight.detach()).float().cpu().numpy()  # enough to tell two trainings apart
    base = hashlib.sha256(repr(model.config).encode() + norm.tobytes())
    settings["data"] = f"data {rendered.hexdigest()[:16]}"
    settings["model"] = f"model {base.hexdigest()[:16]}"
    return json.loads(json.dumps(settings))  # tuples become lists, as in the file they are compared with


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def named_parameters(optimizer: torch.optim.AdamW) -> Iterator[tuple[str, torch.Tensor]]:
    """What it trains, in its order, by the names that it was given."""
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)


def training_state(
    step: int, masters: Masters, optimizer: torch.optim.AdamW
) -> Iterator[tuple[str, torch.Tensor]]:
    """What the training state holds after `step`: all that is trained, and AdamW's moments."""
    for name, parameter in named_parameters(optimizer):
        yield f"parameter.{name}", masters.as_in_model(name, parameter.detach())
        if step:  # before the first, AdamW keeps nothing
            for moment in MOMENTS:
                yield f"{moment}.{name}", masters.as_in_model(name, optimizer.state[parameter][moment])


class Output:
    """What is written to the output folder, by the first process only."""

    def __init__(self, folder: Path, settings: dict, frame: Frame, writes: bool):
        self.folder, self.settings, self.frame, self.writes = folder, settings, frame, writes

    def start(self, args: argparse.Namespace) -> None:
        """Begin a fresh run; a folder that cannot be written is found out here, before any work."""
        if self.writes:
            text = json.dumps(vars(args), indent=1, default=str) + "\n"
            write_whole(self.folder / ARGS, lambda path: path.write_text(text))
            os.truncate(self.folder / METRICS, 0)  # not replaced: the lock is on this very file

    def log(self, record: dict) -> None:
        """Append a line to metrics.jsonl. Raises UserError."""
        if not self.writes:
            return
        path = self.folder / METRICS
        try:
            with open(path, "a") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); free space, then --resume"
            ) from None

    def evaluations(self) -> list[dict]:
        """The lines of metrics.jsonl that report an evaluation; none in other processes than the first."""
        if not self.writes:
            return []
        path = self.folder / METRICS
        lines = enumerate(path.read_bytes().splitlines(), 1)
        found = (parse_object(line, f"{path}:{number}", "a line of train.py") for number, line in lines)
        return [line for line in found if "eval" in line]

    def save(self, step: int, model: Transformer, masters: Masters, optimizer: torch.optim.AdamW) -> None:
        """Write the training state, then the result; a kill between the two leaves it to `restore`."""
        tensors = collect(training_state(step, masters, optimizer), self.writes)
        if self.writes:
            self._save_state(step, tensors)
        if step:
            self._save_result(model)

    def _save_state(self, step: int, tensors: dict[str, torch.Tensor]) -> None:
        with open(self.folder / METRICS, "rb") as file:
            metrics = file.read()
            os.fsync(file.fileno())  # the state must not know of lines that are not on the disk
        state = {"step": step, "metrics_bytes": len(metrics), "metrics_sha256": digest(metrics)}
        text = json.dumps(state | {"settings": self.settings})
        write_whole(self.folder / STATE, lambda path: save_file(tensors, path, {"state": text}))

    def _save_result(self, model: Transformer) -> None:
        """The adapter or, of full fine-tuning, the checkpoint."""
        if self.settings["method"] == "full":
            save_checkpoint(model, self.frame, self.folder, self.writes)
        elif self.writes:
            save_adapter(model, self.folder)

    def restore(self, model: Transformer, masters: Masters, optimizer: torch.optim.AdamW) -> int:
        """Put the parameters, AdamW, the result and metrics.jsonl back to the last save; return its step.

        Raises UserError when a setting has changed since, or when the state cannot be read.
        """
        path, mend = self.folder / STATE, "start again in another --output"
        try:
            tensors, metadata = load_file(path)
            state = json.loads(metadata["state"])
            before = dict(state["settings"])
        except UserError as fault:
            raise UserError(f"{fault}; {mend}") from None
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"{path}: not a training state ({error!r}); {mend}") from None
        for name, value in self.settings.items():
            flag = f"--{name.replace('_', '-')}"
            if name not in before:
                fault = f"the run in {self.folder} is of older code, which did not have it"
                raise UserError(f"{flag}: {fault}; resume with that code, or start again in another --output")
            if value != before[name]:
                got = f"{flag}: got {value}, the run in {self.folder} has {before[name]}"
                raise UserError(f"{got}; resume with that, or start again in another --output")
        if CHECKSUM not in metadata:
            raise UserError(f"{path}: has no checksum, older code wrote it; resume with that code, or {mend}")
        if self.writes:
            self._check_metrics(state)
        step = state["step"]
        moments = {}
        for index, (name, parameter) in enumerate(named_parameters(optimizer)):
            parameter.data.copy_(masters.own(name, tensors[f"parameter.{name}"]))
            if step:
                moments[index] = {each: masters.own(name, tensors[f"{each}.{name}"]) for each in MOMENTS}
                moments[index]["step"] = torch.tensor(float(step))
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        masters.publish()
        if self.writes:
            self._restore_files(state)
        if step:
            self._save_result(model)  # after the last step, no save would follow
        return step

    def _check_metrics(self, state: dict) -> None:
        """Raises UserError where metrics.jsonl is not as at the save; one that a user has removed passes."""
        path = self.folder / METRICS
        content = path.read_bytes()[: state["metrics_bytes"]]
        if content and digest(content) != state["metrics_sha256"]:
            raise UserError(f"{path}: damaged; remove it, and the run goes on without its lines so far")

    def _restore_files(self, state: dict) -> None:
        """Cut metrics.jsonl back, remove what a killed save left."""
        metrics = self.folder / METRICS
        os.truncate(metrics, min(state["metrics_bytes"], metrics.stat().st_size))
        remove_left_overs(self.folder)
