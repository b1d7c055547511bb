"""What every test shares: no network, one thread for the reference computations."""

import os

from core import settings

settings.quieten()
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402

torch.set_num_threads(1)  # tiny models: threads that wait for each other cost more than they save
