"""What may break in the objective and its parts, and the tests that must notice."""

from mutations.harness import Mutation

_REWEIGHTED = "objectives/reweighted.py"
_BY_HAND = ("objectives/test_reweighted_by_hand.py",)
_RUNNING = ("objectives/test_reweighted.py",)
_IDENTITIES = ("objectives/test_identities.py",)
_GOLDEN = ("golden/test_traces.py",)
_DIVIDE_ROWS = """\
            coefficients = {name: part / rows for name, part in coefficients.items()}
        normalizer = rows.sum() if self.normalization == """

MUTATIONS = [
    Mutation(
        name="the floor is dropped",
        file=_REWEIGHTED,
        old="_row_sum(weights.values(), batch)).clamp(min=0)",
        new="_row_sum(weights.values(), batch)).clamp(min=0) * 0",
        tests=_BY_HAND,
    ),
    Mutation(
        name="the floor may be negative",
        file=_REWEIGHTED,
        old="_row_sum(weights.values(), batch)).clamp(min=0)",
        new="_row_sum(weights.values(), batch))",
        tests=_BY_HAND,
    ),
    Mutation(
        name="gradients flow through a weighting's own parameters",
        file=_REWEIGHTED,
        old="        with torch.no_grad():\n            weights = term.weighting(evidence).float()",
        new="        weights = term.weighting(evidence).float()",
        tests=_RUNNING,
    ),
    Mutation(
        name="evidence keeps the graph of its logits",
        file="weighting/base.py",
        old='object.__setattr__(self, "logits", self.logits.detach())',
        new='object.__setattr__(self, "logits", self.logits)',
        tests=("contracts/test_weightings.py",),
    ),
    Mutation(
        name="batch and instance normalisation are swapped",
        file=_REWEIGHTED,
        old=('if self.normalization == "instance":\n' + _DIVIDE_ROWS + '"batch" else count'),
        new=('if self.normalization == "batch":\n' + _DIVIDE_ROWS + '"instance" else count'),
        tests=_IDENTITIES,
    ),
    Mutation(
        name="the total is divided by B instead of the normalizer",
        file=_REWEIGHTED,
        old='normalizer = rows.sum() if self.normalization == "batch" else count',
        new="normalizer = count",
        tests=_BY_HAND,
    ),
    Mutation(
        name="the anchor is the clean image",
        file=_REWEIGHTED,
        old="anchor = self.anchor or self.terms[0].name",
        new="anchor = CLEAN",
        tests=_BY_HAND,
    ),
    Mutation(
        name="the anchor is the last term",
        file=_REWEIGHTED,
        old="anchor = self.anchor or self.terms[0].name",
        new="anchor = self.anchor or self.terms[-1].name",
        tests=_BY_HAND,
    ),
    Mutation(
        name="terms share their noise",
        file=_REWEIGHTED,
        old="noise=step.noise.child(name)",
        new="noise=step.noise",
        tests=_RUNNING,
    ),
    Mutation(
        name="zero weights divide by zero",
        file=_REWEIGHTED,
        old="torch.where(empty, 1.0, part)",
        new="part",
        tests=_RUNNING,
    ),
    Mutation(
        name="attacks that share a batch share their loss",
        file="losses.py",
        old="if any(part.function is not parts[0].function for part in parts):",
        new="if not parts:",
        tests=("attacks/test_batched.py",),
    ),
    Mutation(
        name="attacks that share a batch get each other's rows",
        file="attacks/batched.py",
        old="run.part(first, stop)",
        new="run.part(0, stop - first)",
        tests=("attacks/test_batched.py",),
    ),
    Mutation(
        name="a negative weight passes",
        file=_REWEIGHTED,
        old="torch.where(raw[term.name] >= 0, raw[term.name], torch.nan)",
        new="raw[term.name]",
        tests=_RUNNING,
    ),
    Mutation(
        name="what stood in for a batch without weight stays",
        file="training/step.py",
        old="value.grad.masked_fill_(first, 0)",
        new="value.grad.masked_fill_(first & False, 0)",
        tests=("training/test_step.py",),
    ),
    Mutation(
        name="clean logits are taken in train mode",
        file=_REWEIGHTED,
        old="with evaluating(view), torch.no_grad():",
        new="with torch.no_grad():",
        tests=_RUNNING,
    ),
    Mutation(
        name="the margin's sign is flipped",
        file="weighting/margin.py",
        old="margin_deficit(evidence.logits, evidence.labels)",
        new="2 - margin_deficit(evidence.logits, evidence.labels)",
        tests=_BY_HAND,
    ),
    Mutation(
        name="the power of a tiny negative number is taken",
        file="weighting/margin.py",
        old="(1 - margin).clamp(min=0)",
        new="(1 - margin)",
        tests=("weighting/test_margin.py",),
    ),
    Mutation(
        name="images that survive longer weigh more",
        file="weighting/geometry.py",
        old="(1 - 2 * share)",
        new="(2 * share - 1)",
        tests=("objectives/test_phases.py",),
    ),
    Mutation(
        name="phases begin an epoch late",
        file="objectives/phases.py",
        old="if progress >= start]",
        new="if progress > start]",
        tests=("objectives/test_phases.py",),
    ),
    Mutation(
        name="TRADES' gradient leaves out the clean image",
        file="objectives/trades.py",
        old="self.divergence.prepare(batch.labels, clean_logits)",
        new="self.divergence.prepare(batch.labels, clean_logits.detach())",
        tests=("objectives/test_trades.py",),
    ),
    Mutation(
        name="the denominator of targeted DLR is detached",
        file="losses.py",
        old="(top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + _TINY)",
        new="(top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + _TINY).detach()",
        tests=_GOLDEN,
    ),
    Mutation(
        name="CW ascends the wrong way",
        file="losses.py",
        old='out: without a clamp it changes no gradient.\n    """\n    return -logit_margin',
        new='out: without a clamp it changes no gradient.\n    """\n    return logit_margin',
        tests=_GOLDEN,
    ),
    Mutation(
        name="SAA returns the clean image where it fools nobody",
        file="attacks/apgd.py",
        old="            images=candidate.images[rows],\n            trace=Trace(",
        new=(
            "            images=torch.where(\n"
            "                (candidate.margin[rows] < 0).view(-1, 1, 1, 1),\n"
            "                candidate.images[rows], images),\n"
            "            trace=Trace("
        ),
        tests=_GOLDEN,
    ),
    Mutation(
        name="SAA returns its mildest candidate",
        file="attacks/apgd.py",
        old="source = candidate.margin.view(count, batch).argmin(0)",
        new="source = candidate.margin.view(count, batch).argmax(0)",
        tests=_GOLDEN,
    ),
    Mutation(
        name="GAIRAT's bootstrap is dropped",
        file="methods.py",
        old="{0.0: with_weighting(Uniform()), begin:",
        new="{0.0: with_weighting(GeometryTanh(lambda_=lambda_)), begin:",
        tests=("test_methods.py",),
    ),
    Mutation(
        name="LRAT anchors its floor on CW",
        file="methods.py",
        old='attacks: Sequence[str] = ("saa", "cw"),',
        new='attacks: Sequence[str] = ("cw", "saa"),',
        tests=("test_methods.py",),
    ),
]
