# %% [markdown]
# # Your own model, your own images
#
# Everything in Python, without the command line: a network and arrays that lrat has never seen,
# hardened, attacked, compared, and saved. Replace the two cells marked *yours*.
#
# Run it as a script (`python examples/own_model.py`), or cell by cell in an editor.
# `LRAT_EXAMPLE=quick` makes everything tiny: a test of the code, without meaning.

# %%
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

import lrat
from lrat.evaluation import compare
from lrat.models import Normalize
from lrat.threat import Linf

QUICK = os.environ.get("LRAT_EXAMPLE") == "quick"

# %% [markdown]
# ## Yours: the images
#
# Arrays or tensors: uint8, or floats in [0, 1]; [N H W], [N H W C] or [N C H W]; labels 0, 1, ...

# %%
bundled = load_digits()
images, labels = bundled.images / 16, bundled.target
count = 64 if QUICK else 1400
train, test = (images[:count], labels[:count]), (images[1400:], labels[1400:])
if QUICK:
    test = (images[1400:1420], labels[1400:1420])

# %% [markdown]
# ## Yours: the network
#
# Any `nn.Module` from images in [0, 1] to logits. Normalising is its first layer, since attacks and
# epsilon live in [0, 1].


# %%
def network() -> nn.Module:
    """A small convolutional network, its weights drawn anew."""
    torch.manual_seed(0)
    return nn.Sequential(
        Normalize(mean=[0.3], std=[0.38]),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


# %% [markdown]
# ## How strong an attacker?
#
# The largest change after which *you* still see the same class. Here: every pixel by a tenth.

# %%
THREAT = Linf(epsilon=0.1)

# %% [markdown]
# ## Train it twice
#
# As you would have done, and against attacks. A share of the training images is held out and picks
# the epoch. With `out="runs/mine"` the run would be kept, and the same call would continue it.

# %%
models = {"natural": network(), "sat": network()}
for method, model in models.items():
    fitted = lrat.fit(
        model,
        train,
        method=method,
        threat=THREAT,
        epochs=1 if QUICK else 15,
        batch_size=64,
    )
    print(
        f"{method}: epoch {fitted.selected_epoch} selected, "
        f"{100 * (fitted.validation_accuracy or 0):.1f} % withstand PGD-10 on held-out images"
    )

# %% [markdown]
# ## Attack both
#
# `quick` is PGD and CW; `paper` adds AutoAttack, which is what to report. With `folder="evidence"`
# every image's outcome would be kept.

# %%
SUITE = "quick" if QUICK else "paper"
results = {
    method: lrat.evaluate(model, test, threat=THREAT, suite=SUITE)
    for method, model in models.items()
}
print(f"\nsat\n{results['sat']}")
print(f"\nsat (a) against natural (b)\n{compare(results['sat'], results['natural'])}")

# %% [markdown]
# ## Believe it?
#
# Twelve checks whether the attacks worked. `passed` is what you want to read.

# %%
panel = lrat.check_masking(models["sat"], test, threat=THREAT)
print(f"\n{panel}")

# %% [markdown]
# ## Keep it
#
# The weights as safetensors, in which no code can hide. `lrat evaluate --model ... --weights
# ...` reads them.

# %%
with tempfile.TemporaryDirectory() as folder:  # a folder of yours in its place
    place = Path(folder) / "hardened.safetensors"
    save_file(models["sat"].state_dict(), place)
    print(f"\n{place.stat().st_size / 1e3:.0f} kB of weights")
