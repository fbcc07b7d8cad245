"""How well a score tells two groups apart: the area under the ROC curve, with its standard error."""

import numpy as np

from strobe.core.errors import BadOption
