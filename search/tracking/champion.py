"""A trained run as an MLflow model: MLflow runs this file to load it, so that no pickle is needed.

    mlflow.set_tracking_uri("sqlite:///runs/mlflow.db")     # or a server's; `nanosweep register` prints both lines
    model = mlflow.pyfunc.load_model("models:/quickstart@champion")
    model.predict(pandas.DataFrame({"prompt": ["Once upon a time"]}), params={"temperature": 0.5, "seed": 1})
    model.predict(pandas.DataFrame({"prompt": texts}), params={"mode": "score"})    # columns nats, tokens

It is loaded far from this project: beside MLflow and pandas it needs `models`, `data` and `trainer`, which are logged
with it, and nothing of `search`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

if TYPE_CHECKING:
    import pandas as pd

# name: type as MLflow calls it, default
PARAMS: dict[str, tuple[str, Any]] = {
    "mode": ("string", "generate"),
    "max_new_tokens": ("long", 200),
    "temperature": ("double", 0.8),
    "top_k": ("long", 0),
    "seed": ("long", 1337),
}


class Champion(PythonModel):
    """The best trial of a study. Input: texts in a column `prompt`.

    mode: `generate` continues each (columns `text`: the prompt and what follows); `score` takes the rows in order as
    one split (columns `nats`, `tokens`): exp(nats.sum() / tokens.sum()) over the validation split's documents is the
    leaderboard's perplexity. top_k 0: all tokens. Equal seed and prompt: equal text.
    """

    def load_context(self, context: Any) -> None:
        from trainer.portable import load

        self.run = load(Path(context.artifacts["run"]), allow_code=True)  # whoever loads an MLflow model runs its code

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        import pandas as pd

        options = {**{name: default for name, (_, default) in PARAMS.items()}, **(params or {})}
        texts = [str(text) for text in pd.DataFrame(model_input)["prompt"]]
        mode = options.pop("mode")
        if mode == "score":
            return pd.DataFrame(self.run.score(texts), columns=["nats", "tokens"])
        if mode != "generate":
            raise ValueError(f"mode: {mode}; allowed: generate, score")
        options["top_k"] = options["top_k"] or None
        return pd.DataFrame({"text": [self.run.write(text, **options) for text in texts]})


set_model(Champion())
