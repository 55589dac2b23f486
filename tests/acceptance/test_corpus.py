import json
import random
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from itertools import batched if False else islice
