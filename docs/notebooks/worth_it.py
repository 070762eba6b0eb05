# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Is it worth its passes?
#
# On generated scenes with labels: the plain network against MCBN, score by score, with intervals of the paired
# difference.

# %%
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import segment
from segment.files.writing import write_png
from segment.scenes.scene import TEST, TRAIN, scene

folder = Path(mkdtemp())
for seed in [seed for seed in TEST[:16] if scene(seed).label.max() < 6][:8]:
    write_png(folder / "images" / f"{seed}.png", scene(seed).image)
    write_png(folder / "labels" / f"{seed}.png", scene(seed).label)

# %%
network = segment.load_network("scenes")
images = [scene(seed).image for seed in list(TRAIN)[:24]]
bank = segment.fit_bank(network, images, batch=4, draws=8)
methods = ("deterministic", "mean_statistics", "mcbn")
plan = segment.EvaluatePlan()
plan = replace(plan, methods=replace(plan.methods, methods=methods, precision="fp32"))
evaluation = segment.evaluate(
    network, folder / "images", folder / "labels", bank=bank, output=folder / "scores", plan=plan
)
evaluation

# %% [markdown]
# MCBN minus the plain network, and minus the bank's mean. An interval that excludes zero is a hint. Many scores are
# compared: a difference is significant where `holm_p`, its p-value after Holm's correction, is at most .05 as well.

# %%
for gain in evaluation.gains:
    for score in ("nll", "miou", "brier"):
        entry = gain.differences[score]
        interval = f"{entry['low']:+.4f} to {entry['high']:+.4f}, holm_p {entry['holm_p']:.2g}"
        print(f"{gain.method} - {gain.rival}, {score}: {entry['value']:+.4f} ({interval})")
