"""Records entities' and spans' measures, computed from their definitions and in another way than Peft computes them.

    python3 make.py            # writes measures.json beside this file

Entities: Tjong Kim Sang and De Meulder 2003, as seqeval's default mode reads IOB1, IOB2, IOBES and BILOU alike; boundaries are found from each pair of neighbours.
Spans: Rajpurkar et al. 2016: lower case, punctuation and articles left out, exact match and F1 of the bag of words, beside the best of the right answers.
"""
import collections, json, os, random, re, string


def boundary(before, after):
    """Whether an entity ends, and whether one begins, between two classes."""
    (p, kind), (q, other) = before, after
    inside, next_inside = p != "O", q != "O"
    ends = inside and (p in "ELSU" or q in "BSU" or not next_inside or kind != other)
    begins = next_inside and (q in "BSU" or p in "ELSU" or not inside or kind != other)
    return ends, begins


def entities(classes):
    tags = [("O", "")] + [("O", "") if c == "O" else tuple(c.split("-", 1)) for c in classes] + [("O", "")]
    found, start = set(), None
    for i in range(1, len(tags)):
        ends, begins = boundary(tags[i - 1], tags[i])
        if ends: found.add((tags[i - 1][1], start, i - 2))
        if begins: start = i - 1
    return found


def ratio(a, b): return a / b if b else 0.0


def scores(right, said):
    precision, recall = ratio(len(right & said), len(said)), ratio(len(right & said), len(right))
    return dict(count=len(right), precision=precision, recall=recall, f1=ratio(2 * precision * recall, precision + recall))


def tagging(rows):
    right = {(i, *e) for i, (expected, _) in enumerate(rows) for e in entities(expected)}
    said = {(i, *e) for i, (_, answer) in enumerate(rows) for e in entities(answer)}
    kinds = sorted({e[1] for e in right | said})
    pairs = [pair for expected, answer in rows for pair in zip(expected, answer)]
    return dict(rows=rows, hits=sum(a == b for a, b in pairs), words=len(pairs), all=scores(right, said),
                kinds=[dict(name=kind, **scores({e for e in right if e[1] == kind}, {e for e in said if e[1] == kind})) for kind in kinds])


def words(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def f1(expected, answer):
    right, said = words(expected), words(answer)
    if not right or not said: return float(right == said)
    common = sum((collections.Counter(right) & collections.Counter(said)).values())
    return ratio(2 * ratio(common, len(said)) * ratio(common, len(right)), ratio(common, len(said)) + ratio(common, len(right)))


def span(expected, answer):
    all_right = expected or [""]
    return dict(expected=expected, answer=answer, exact=any(words(e) == words(answer) for e in all_right), f1=max(f1(e, answer) for e in all_right))


draw = random.Random(20)
tagged = []
for prefixes in ("BI", "BIES", "BILU"):
    names = ["O"] * 3 + [f"{p}-{kind}" for p in prefixes for kind in ("PER", "LOC", "ORG-2")]
    rows = []
    for _ in range(40):
        expected = draw.choices(names, k=draw.randint(1, 14))
        rows.append((expected, [c if draw.random() < 0.7 else draw.choice(names) for c in expected]))
    tagged.append(tagging(rows))
vocabulary = ["the", "The", "a", "Paris,", "Paris", "paris.", "1,200", "1200", "city", "an", "U.S.", "us", "(old)", "old", "théâtre", "don't", "$5", "5"]
spans = []
for _ in range(150):
    text = lambda: " ".join(draw.choices(vocabulary, k=draw.randint(1, 5)))
    expected = [text() for _ in range(draw.randint(0, 3))]
    spans.append(span(expected, draw.choice([text(), "", *(e + draw.choice(["", ".", " the"]) for e in expected)])))
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "measures.json"), "w") as file:
    json.dump(dict(tagging=tagged, spans=spans), file, ensure_ascii=False, separators=(",", ":"))
