"""Activations as transformers computes and prints them: python3 make.py > activations.json"""

import json

import torch
from transformers.activations import ACT2CLS, ACT2FN

WITH_WEIGHTS = ("prelu", "xielu")
x = [-12.0, -4.0, -1.5, -0.3, 0.0, 0.7, 2.5, 7.0, 12.0]
rows = {name: {"prints": repr(ACT2FN[name]),
               "values": [round(v, 7) for v in ACT2FN[name](torch.tensor(x, dtype=torch.float64)).tolist()]}
        for name in ACT2CLS if name not in WITH_WEIGHTS}
print(json.dumps({"peer": "transformers 5.23, float64", "x": x, "activations": rows}, indent=1))
