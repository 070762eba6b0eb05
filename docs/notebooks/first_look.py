# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A first look
#
# A network that the package brings along, generated street scenes, and what an estimate shows. Replace the network by
# your card and the images by yours. This page is a script (`docs/notebooks/first_look.py`, jupytext); the site runs it
# when it is built.

# %%
import segment
from segment.scenes.scene import TEST, TRAIN, scene

network = segment.load_network("scenes")
network

# %% [markdown]
# A bank: draws of BN statistics from mini-batches of training images, augmented as the card says.

# %%
images = [scene(seed).image for seed in list(TRAIN)[:24]]
bank = segment.fit_bank(network, images, batch=4, draws=8)
bank

# %% [markdown]
# An estimate shows itself: the image, the prediction, the heat map and the overlay, and each measure's mean.

# %%
mcbn = segment.MCBN(network, bank, precision="fp32")
image = scene(TEST[2]).image
result = mcbn(image, measures=("predictive_entropy", "mutual_information", "variance"))
result

# %% [markdown]
# A figure for a paper; `high` sets the scale of a map.

# %%
from io import BytesIO

from IPython.display import Image

shown, high = ["predictive_entropy", "mutual_information"], {"mutual_information": 0.2}
stream = BytesIO()
result.plot(shown, high=high).savefig(stream, dpi=110)
Image(data=stream.getvalue())

# %% [markdown]
# Your own measure from the draws, one at a time: how often is each pixel's class voted for?

# %%
votes = [draw.argmax(dim=0) == result.prediction for draw in mcbn.draws(image)]
share = sum(vote.float() for vote in votes) / len(bank)
round(float(share.mean()), 2)
