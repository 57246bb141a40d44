# %% [markdown]
# # The paper's argument on digits, in ten minutes
#
# Adversarial training fits a model to attacked images. Instance-reweighted methods such as GAIRAT
# make some of these images count more, and choose them with the eyes of one attack. The paper
# (*Local Reweighting for Adversarial Training*) argues that this weakens a model against attacks
# that it has not seen, and weighs each attacked image by its own margin instead. Three models and
# real handwritten digits show how much of that can be seen here.
#
# Run it as a script (`python examples/paper_on_digits.py`), or cell by cell in an editor.
# `LRAT_EXAMPLE=quick` makes everything tiny: a test of the code, without meaning.

# %%
import os

import torch

import lrat
from lrat.attacks import PGD
from lrat.data import digits, stratified_subset
from lrat.evaluation import compare
from lrat.models import SmallCNN
from lrat.threat import Linf
from lrat.weighting import Evidence, GeometryTanh, MarginPower, Uniform

QUICK = os.environ.get("LRAT_EXAMPLE") == "quick"
EPOCHS, TRAINED, TESTED = (1, 64, 20) if QUICK else (30, None, 360)
THREAT = Linf(epsilon=0.2)  # an attacker may change every pixel by a fifth of the range

splits = digits(seed=0, validation=0, train_limit=TRAINED)
train, test = splits.training(), stratified_subset(splits.test, TESTED, seed=0)

# %% [markdown]
# ## Train three models
#
# SAT: one attack, every image counts alike. GAIRAT: one attack, an image counts the more the fewer
# steps it survives. LRAT: two attacks, each attacked image counts by its own margin. The networks
# start from the same weights, and the last epoch is reported.

# %%
METHODS = ("sat", "gairat", "lrat-saa+cw")
models = {}
for method in METHODS:
    torch.manual_seed(0)
    model = SmallCNN(channels=1, size=8, classes=10, width=4 if QUICK else 16)
    lrat.fit(
        model,
        train,
        method=method,
        threat=THREAT,
        epochs=EPOCHS,
        batch_size=64,
        validation=0,
    )
    models[method] = model
    print(f"{method} is trained")

# %% [markdown]
# ## Attack them
#
# PGD is the attack that SAT and GAIRAT saw in training. CW is another loss, and the two Auto-PGDs
# are the strongest members of AutoAttack: nobody trained against these. An image counts as robust
# in the worst case if it withstands all of them.

# %%
results = {
    method: lrat.evaluate(model, test, threat=THREAT, suite="tier")
    for method, model in models.items()
}
print(f"{'':12}" + "".join(f"{name:>12}" for name in (*results["sat"].names, "worst case")))
for method, result in results.items():
    shares = [*(result.accuracy[name] for name in result.names), result.worst_case]
    print(f"{method:12}" + "".join(f"{100 * share.value:11.1f}%" for share in shares))

# %% [markdown]
# ## What may be concluded
#
# All models met the same images, so they are compared image by image (McNemar's exact test). What
# so few images cannot tell apart is said too.

# %%
for method in METHODS[1:]:
    print(f"\n{method} (a) against sat (b)\n{compare(results[method], results['sat'])}")

# %% [markdown]
# ## Is it real?
#
# A model whose gradients mislead looks robust under PGD until another attack comes. Twelve checks
# look for that; those which were not passed are printed.

# %%
for method, model in models.items():
    panel = lrat.check_masking(model, test, threat=THREAT)
    print(f"{method}: {panel.status}")
    for check in panel.checks:
        if check.status in ("suspicious", "failed"):
            print(f"    {check.name}: {check.sentence}")

# %% [markdown]
# ## Why: look at the weights
#
# Attack the training images of the SAT model once, and ask each method for its weights. The
# effective sample size is the share of images that would do the same work if all counted alike.
# GAIRAT learns from a few images. LRAT spreads its weights over many more: small ones go to the
# attacked images that the model is sure of, of which there are many on data as easy as digits.

# %%
batch = train.batch(torch.arange(len(train)))
attack = PGD(threat=THREAT, steps=10, step_size=THREAT.epsilon / 10)
variant = attack(models["sat"], batch.images, batch.labels, noise=0)
with torch.no_grad():
    logits = models["sat"](variant.images)
evidence = Evidence(
    logits=logits,
    labels=batch.labels,
    steps_survived=variant.steps_survived,
    max_steps=variant.max_steps,
)
print(f"{'':12}{'below .2':>12}{'effective':>12}")
for name, weighting in (
    ("uniform", Uniform()),
    ("gairat", GeometryTanh(lambda_=-1)),
    ("lrat", MarginPower(alpha=2, beta=0.5)),
):
    weights = weighting(evidence)
    below = (weights < 0.2).float().mean()
    effective = weights.sum() ** 2 / (len(weights) * (weights**2).sum())
    print(f"{name:12}{100 * below:11.1f}%{100 * effective:11.1f}%")
