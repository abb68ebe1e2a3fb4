"""`Segmenter`: the main road with the manners of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scantling.data.image_io import MedicalImage, read_image
from scantling.errors import ConfigError
from scantling.evaluation.evaluate import Evaluation
from scantling.inference.predictor import Prediction, Predictor
from scantling.training.run_folder import RunFolder
from scantling.workflows import verbs
from scantling.workflows.result import RunResult
from scantling.workflows.train import train


class Segmenter:
    """fit / predict / score on folders and images; `get_params` and `set_params` as scikit-learn has them.

    Args:
        recipe: name of the method; None is chosen by what labels there are, as `train` does.
        time: budget of `fit`, as "20m" or in seconds; `steps` instead gives runs that repeat to the bit.
        settings: `a.b=value` overrides.
    """

    def __init__(
        self,
        *,
        recipe: str | None = None,
        seed: int = 0,
        time: str | float | None = None,
        steps: int | None = None,
        labels: int | None = None,
        fold: int | str = 0,
        device: str = "auto",
        settings: Sequence[str] = (),
    ) -> None:
        self.recipe, self.seed, self.time, self.steps = recipe, seed, time, steps
        self.labels, self.fold, self.device, self.settings = labels, fold, device, settings
        self.run_: RunResult | None = None
        self._predictor: Predictor | None = None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("recipe", "seed", "time", "steps", "labels", "fold", "device", "settings")
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> Segmenter:
        """Change constructor arguments by name.

        Raises:
            ConfigError: a name is none of them.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ConfigError(f"Segmenter has no parameter {name!r}; known are {', '.join(known)}", code="E-CFG-14")
            setattr(self, name, value)
        return self

    def fit(self, data: Path | str, out: Path | str | None = None, *, overwrite: bool = False) -> Segmenter:
        """Train on a data folder; the run is kept in `run_`."""
        self.run_ = train(data, out, overwrite=overwrite, **self.get_params())
        self._predictor = None
        return self

    @classmethod
    def load(cls, run: Path | str, *, device: str = "auto") -> Segmenter:
        """A fitted segmenter from a run folder."""
        segmenter = cls(device=device)
        segmenter.run_ = RunResult.read(RunFolder.open(Path(run)))
        return segmenter

    def predict(self, image: Path | str | MedicalImage | Sequence[Path | str]) -> Prediction:
        """Segment one image: a path, an image in memory, or the paths of its channels."""
        predictor = self._ready()
        if isinstance(image, MedicalImage):
            return predictor.predict([image])
        paths = [image] if isinstance(image, str | Path) else list(image)
        return predictor.predict([read_image(Path(path)) for path in paths])

    def score(self, images: Path | str, reference: Path | str, out: Path | str) -> Evaluation:
        """Predict a folder of images into `out` and score it."""
        run = self._fitted()
        verbs.predict(run.path, images, out, device=self.device)
        return verbs.score(out, reference)

    def _fitted(self) -> RunResult:
        if self.run_ is None:
            raise ConfigError(
                "this Segmenter is not fitted yet; call fit(data) or Segmenter.load(run)", code="E-CFG-15"
            )
        return self.run_

    def _ready(self) -> Predictor:
        if self._predictor is None:
            self._predictor = Predictor.load(self._fitted().path, device=self.device)
        return self._predictor
