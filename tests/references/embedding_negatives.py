"""Multiple negatives ranking with explicit negatives, in plain torch over transformers' hidden states of the embedded base: what EmbeddingObjectiveTests hold.

    PYTHONPATH=PEER python3.11 -S embedding_negatives.py ASSETS/pocket-llama
"""
import sys, torch
from transformers import AutoModel
from tokenizers import Tokenizer
folder = sys.argv[1]
rows = [("What is the capital of Texas?", "Austin is the capital of Texas.", ["Houston is the largest city of Texas."]),
        ("Where does the sun rise?", "The sun rises in the east.", ["The moon is far away.", "The sun sets in the west."]),
        ("Who wrote it?", "A friend of mine wrote the letter.", [])]
model, tokenizer = AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), Tokenizer.from_file(folder + "/tokenizer.json")

def vector(text):
    ids = torch.tensor([tokenizer.encode(text).ids])
    with torch.no_grad():
        return torch.nn.functional.normalize(model(input_ids=ids).last_hidden_state[0].mean(0), dim=0)

first, second = (torch.stack([vector(row[i]) for row in rows]) for i in (0, 1))
worse = torch.stack([vector(text) for row in rows for text in row[2]])
scores = 20 * first @ torch.cat([second, worse]).T
own = torch.arange(len(rows))
down = torch.nn.functional.cross_entropy(scores, own)
across = torch.nn.functional.cross_entropy(scores[:, :len(rows)].T, own)
print("one way", down.item(), "both ways", ((down + across) / 2).item(), "without", torch.nn.functional.cross_entropy(scores[:, :len(rows)], own).item())
