"""A run's model for use elsewhere: loaded into Python, or written as files, each of them checked.

What is written is read back, run on images, and compared with the model itself.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrat.config import build
from lrat.config.sections import name_and_options
from lrat.config.settings import RunConfig
from lrat.errors import ConfigurationError, ModelError, RunFolderError, UnknownNameError
from lrat.evaluation import EvaluationResult
from lrat.files.names import MODEL, WEIGHTS
from lrat.files.read import read_record
from lrat.files.write import write_atomically, write_text
from lrat.models import Normalize, Normalized
from lrat.models.libraries import silent
from lrat.outputs import forward_logits
from lrat.runs.folder import evaluated, finished_at, read_config
from lrat.runs.weights import fill, load_weights, weights_digest, write_safetensors
from lrat.text import in_one_line, percent

TOLERANCE = 1e-4
"""The largest difference of logits between what was written and the model."""
_IMAGES = 8
_ONNX, _PROGRAM = "model.onnx", "model.pt2"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run's network in eval mode, and what its folder says of it."""

    run: Path
    config: RunConfig
    network: nn.Module
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]

    @property
    def inner(self) -> nn.Module:
        """The network without the normalisation before it, as its library or user built it."""
        return self.network.network if isinstance(self.network, Normalized) else self.network

    @property
    def normalization(self) -> dict[str, list[float]] | None:
        """Mean and std of each channel; None where the network gets images as they are."""
        layer = getattr(self.network, "normalize", None)
        if not isinstance(layer, Normalize):
            return None
        return {name: getattr(layer, name).flatten().tolist() for name in ("mean", "std")}

    def logits_of(self, inner: nn.Module) -> Tensor:
        """The logits of ``inner``, read back from a file, behind this model's normalisation."""
        network = self.network
        again = Normalized(inner, network.normalize) if isinstance(network, Normalized) else inner
        return forward_logits(again.eval(), self.images())

    def images(self) -> Tensor:
        """Images [B C H W] in [0, 1] to compare on, always the same."""
        generator = torch.Generator().manual_seed(0)
        return torch.rand(_IMAGES, *self.shape, generator=generator)


def load(run: str | Path, *, checkpoint: str = "selected", unwrap: bool = False) -> nn.Module:
    """The model of a finished run, in eval mode on the CPU: images [B C H W] in [0, 1] to logits.

    ``checkpoint``: ``selected``, ``last`` or ``epoch-N``. ``unwrap``: the network alone, which
    takes normalised images. Needs no data. Raises RunFolderError and CheckpointError.
    """
    trained = open_trained(Path(run), checkpoint)
    return trained.inner if unwrap else trained.network


def open_trained(run: Path, checkpoint: str = "selected") -> Trained:
    """The network of a finished run with its weights."""
    config = read_config(run)
    about = read_record(run / MODEL, "finish the run by its `lrat train` command")
    try:
        shape: tuple[int, int, int] = tuple(map(int, about["shape"]))  # type: ignore[assignment]
        names = tuple(map(str, about["class_names"]))
        network = build.model(config, shape, len(names))
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{run / MODEL} is damaged: {in_one_line(error)}") from None
    fill(network, load_weights(run, config, checkpoint), f"{run} ({checkpoint})")
    return Trained(run=run, config=config, network=network.eval(), shape=shape, class_names=names)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """``files``: what was written, each with the largest difference of its logits."""

    folder: Path
    files: Mapping[str, float]

    def __str__(self) -> str:
        lines = [f"{name}: logits differ by at most {gap:.1e}" for name, gap in self.files.items()]
        return "\n".join([*lines, str(self.folder)])


def export(
    run: str | Path,
    formats: Sequence[str],
    out: str | Path,
    *,
    checkpoint: str = "selected",
) -> Exported:
    """Write a finished run's model into the folder ``out``, in each of ``formats``.

    ``safetensors``: the weights under the network's own names; ``onnx``: for any batch size, with
    the normalisation inside (needs onnx, onnxscript and onnxruntime); ``torch-export``: a
    ``torch.export`` program; ``hub-folder``: weights, config.json and a model card with the
    evaluations found in the run. What was written is loaded and its logits compared: ModelError
    above 1e-4. Raises UnknownNameError for another format.
    """
    for name in formats:
        if name not in FORMATS:
            raise UnknownNameError("format", name, FORMATS)
    if not formats:
        raise ConfigurationError(f"name a format to export to: {', '.join(FORMATS)}")
    trained, folder = open_trained(Path(run), checkpoint), Path(out)
    with torch.no_grad():
        expected = forward_logits(trained.network, trained.images())
        files = {}
        for name in dict.fromkeys(formats):
            path, logits = FORMATS[name](trained, folder)
            files[path] = float((logits - expected).abs().max())
            if not files[path] <= TOLERANCE:
                raise ModelError(
                    f"{folder / path}: its logits differ from the model's by {files[path]:.1e}, "
                    f"allowed is {TOLERANCE:.0e}: the format does not hold this model"
                )
    return Exported(folder=folder, files=files)


class _Logits(nn.Module):
    """A network whose output is the logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        answer = self.network(images)
        logits: Tensor = answer if isinstance(answer, Tensor) else answer["logits"]
        return logits


def _to_safetensors(trained: Trained, folder: Path) -> tuple[str, Tensor]:
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    content = write_safetensors(trained.inner.state_dict())
    write_atomically(path, lambda stream: stream.write(content))
    again = build.model(trained.config, trained.shape, len(trained.class_names))
    inner = again.network if isinstance(again, Normalized) else again
    try:
        inner.load_state_dict(load_file(path))
    except Exception as error:  # of what a file of tensors cannot hold, or of a user's method
        raise ModelError(
            f"{path} does not hold this model ({in_one_line(error)}): keep tensors alone in its "
            "state_dict, in a form that its load_state_dict takes"
        ) from error
    return path.name, trained.logits_of(inner)


def _to_onnx(trained: Trained, folder: Path) -> tuple[str, Tensor]:
    onnxruntime = _needed("onnxruntime")
    _needed("onnxscript")
    path = folder / _ONNX
    folder.mkdir(parents=True, exist_ok=True)

    def convert() -> None:
        torch.onnx.export(
            _Logits(trained.network),
            (trained.images(),),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )

    _converted("onnx", convert)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batches = torch.split(trained.images(), [1, _IMAGES - 1])  # two sizes: the batch is not fixed
    answers = [session.run(None, {"images": batch.numpy()})[0] for batch in batches]
    return path.name, torch.cat([torch.from_numpy(each) for each in answers])


def _to_program(trained: Trained, folder: Path) -> tuple[str, Tensor]:
    path = folder / _PROGRAM
    folder.mkdir(parents=True, exist_ok=True)

    def convert() -> None:
        program = torch.export.export(
            _Logits(trained.network),
            (trained.images(),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        torch.export.save(program, path)

    _converted("torch-export", convert)
    loaded: Any = torch.export.load(path)
    module: Any = loaded.module()
    return path.name, torch.cat(
        [module(batch) for batch in torch.split(trained.images(), [2, _IMAGES - 2])]
    )


def _to_hub_folder(trained: Trained, folder: Path) -> tuple[str, Tensor]:
    """Weights and config.json in the form of the network's library where it has one."""
    name, logits = _to_safetensors(trained, folder)
    inner: Any = trained.inner
    about: Any = getattr(inner, "config", None)
    if hasattr(inner, "save_pretrained") and hasattr(about, "to_dict"):
        about.id2label = dict(enumerate(trained.class_names))
        about.label2id = {label: number for number, label in about.id2label.items()}
        with silent(import_module("transformers")):
            inner.save_pretrained(folder)
            again = type(inner).from_pretrained(folder, local_files_only=True)
        logits = trained.logits_of(again)  # of the library's own files
        stated = trained.normalization or {}
        _, height, width = trained.shape
        processing = {
            "do_resize": True,
            "size": {"height": height, "width": width},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": bool(stated),
            **({"image_mean": stated["mean"], "image_std": stated["std"]} if stated else {}),
        }
        write_text(folder / "preprocessor_config.json", json.dumps(processing, indent=2))
    else:
        write_text(folder / "config.json", json.dumps(_configuration(trained), indent=2))
    write_text(folder / "README.md", _card(trained))
    return name, logits


FORMATS: Mapping[str, Callable[[Trained, Path], tuple[str, Tensor]]] = {
    "safetensors": _to_safetensors,
    "onnx": _to_onnx,
    "torch-export": _to_program,
    "hub-folder": _to_hub_folder,
}


def _needed(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ModelError(f"{name} is not installed: pip install 'lrat[onnx]'") from None


def _converted(kind: str, convert: Callable[[], None]) -> None:
    try:
        convert()
    except Exception as error:
        raise ModelError(
            f"the model cannot be written as {kind} ({in_one_line(error)}): export it to "
            "safetensors, or change the layer that is named"
        ) from error


def _configuration(trained: Trained) -> dict[str, Any]:
    """config.json, in timm's form for a network of timm (``local-dir:`` loads it)."""
    channels, height, width = trained.shape
    about: Any = getattr(trained.inner, "pretrained_cfg", None)
    name = trained.config.model.name
    common = {"num_classes": len(trained.class_names), "label_names": list(trained.class_names)}
    if about is None:
        return {"architecture": name, **common, "input_size": list(trained.shape)} | (
            trained.normalization or {}
        )
    stated = dict(about) if isinstance(about, Mapping) else {}
    stated |= {"num_classes": common["num_classes"], "input_size": [channels, height, width]}
    stated |= {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear"}
    stated = {key: value for key, value in stated.items() if not key.startswith("test_")}
    stated |= trained.normalization or {"mean": [0.0] * channels, "std": [1.0] * channels}
    options = name_and_options(name)
    chosen = options.pop("name")
    architecture = stated.pop("architecture", chosen)
    kept = {key: value for key, value in stated.items() if _is_plain(value)}
    arguments = {"model_args": options} if options else {}
    return {"architecture": architecture, **common, "pretrained_cfg": kept, **arguments}


def _is_plain(value: Any) -> bool:
    if is_dataclass(value) and not isinstance(value, type):
        return _is_plain(asdict(value))
    return isinstance(value, (str, int, float, bool, list, tuple, type(None)))


def _card(trained: Trained) -> str:
    """README.md of a model hub: what it is, how robust, against what, and how that was measured."""
    import yaml

    config = trained.config
    weights = weights_digest(trained.network.state_dict())  # an evaluation of others says nothing
    results = [
        EvaluationResult.from_folder(each)
        for each in finished_at(trained.run)
        if evaluated(each, "model") == weights
    ]
    metrics = [
        {
            "type": "accuracy",
            "value": round(100 * share.value, 2),
            "name": f"accuracy under {name}, {result.threat}",
        }
        for result in results
        for name, share in result.accuracy.items()
    ]
    head: dict[str, Any] = {
        "library_name": "timm" if config.model.name.startswith("timm:") else "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", "lrat"],
    }
    if metrics:
        task = {"type": "image-classification"}
        data = {"type": config.data.name.partition(":")[0], "name": Path(config.data.name).name}
        entry = {"task": task, "dataset": data, "metrics": metrics}
        head["model-index"] = [{"name": trained.run.name, "results": [entry]}]
    stated = trained.normalization
    rows = [
        f"| {result.suite} | {result.threat} | {name} | {percent(share.value)} | "
        f"{percent(share.low)} to {percent(share.high)} | {len(result.index)} |"
        for result in results
        for name, share in result.accuracy.items()
    ]
    table = [
        "| suite | threat | attack | accuracy | 95 % interval | images |",
        "|---|---|---|---:|---:|---:|",
        *rows,
    ]
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
            f"# {config.model.name}, trained by {config.method.name}\n",
            f"An image classifier for {len(trained.class_names)} classes "
            f"({', '.join(trained.class_names[:10])}{', ...' * (len(trained.class_names) > 10)}), "
            f"trained to withstand {config.threat}.\n",
            f"Images are [B {' '.join(map(str, trained.shape))}] in [0, 1]; "
            + (
                f"they are normalised by mean {stated['mean']} and std {stated['std']}."
                if stated
                else "they are not normalised."
            ),
            "\n## How robust it is\n",
            *(table if rows else ["It was not evaluated: run `lrat evaluate`."]),
            "\n## How it was trained\n",
            f"```yaml\n{config.to_yaml()}```\n",
        ]
    )
