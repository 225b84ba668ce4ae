"""Changes to what was valid, seeded: of bytes, of trees, of documents and of sequences."""

import re
from random import Random
from typing import Any

_ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, -(2**63), 1e308, -0.0, 0.5),
    *("", "x", "\x00", "\ud800", "é" * 40, "x" * 5000, "../../etc/passwd", "' OR 1=1 --"),
    *([], {}, [[]], [None], {"": ""}, {"query": 1}),
]
_TOKEN = re.compile(r'"[^"]*"|\w+|\S|\s+')


def mutated_bytes(data: bytes, random: Random) -> bytes:
    """One to four changes."""
    for _ in range(random.randint(1, 4)):
        at = random.randint(0, len(data))
        match random.randrange(7):
            case 0:
                data = data[:at]
            case 1:
                data = data[at:]
            case 2 if data:
                at %= len(data)
                data = data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]
            case 3:
                data = data[:at] + random.randbytes(random.randint(1, 40)) + data[at:]
            case 4:
                piece = data[at : at + random.randint(1, 200)]
                data = data[:at] + piece * random.choice([2, 3, 50]) + data[at:]
            case 5:
                data = data[:at] + data[at + random.randint(1, 40) :]
            case _:
                data = data + bytes([random.choice([0, 9, 10, 13, 34, 92, 123, 125, 255])])
    return data[:400_000]


def mutated_tree(tree: Any, random: Random) -> Any:
    """A copy in which one thing, somewhere, is another."""
    if isinstance(tree, dict) and tree and random.random() < 0.8:
        changed = dict(tree)
        name = random.choice(list(changed))
        match random.randrange(8):
            case 0:
                del changed[name]
            case 1:
                changed[random.choice(["x", "", name * 2, "id", "type"])] = changed[name]
            case _:
                changed[name] = mutated_tree(changed[name], random)
        return changed
    if isinstance(tree, list | tuple) and tree and random.random() < 0.8:
        items = list(tree)
        at = random.randrange(len(items))
        match random.randrange(4):
            case 0:
                del items[at]
            case 1:
                items *= random.choice([2, 30])
            case _:
                items[at] = mutated_tree(items[at], random)
        return items
    if isinstance(tree, str) and tree and random.random() < 0.4:
        at = random.randrange(len(tree))
        return tree[:at] + random.choice(["", "\x00", '"', "{", "\u2028", "𝕏"]) + tree[at + 1 :]
    if isinstance(tree, bytes) and random.random() < 0.6:
        return mutated_bytes(tree, random)
    return random.choice(_ODD)


def mutated_document(text: str, random: Random) -> str:
    """Tokens left out, doubled, swapped, or replaced by those of its kind."""
    tokens = _TOKEN.findall(text)
    for _ in range(random.randint(1, 3)):
        if not tokens:
            break
        at, other = random.randrange(len(tokens)), random.randrange(len(tokens))
        match random.randrange(5):
            case 0:
                del tokens[at]
            case 1:
                tokens.insert(at, tokens[other])
            case 2:
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case 3:
                tokens[at] = random.choice(["...", "{", "}", "@skip(if: true)", "$x", "-1e9", "!"])
            case _:
                piece = tokens[at : at + random.randint(1, 12)]
                tokens[at:at] = piece * random.choice([1, 2, 20])
    return "".join(tokens)


def shuffled(messages: list[Any], random: Random) -> list[Any]:
    """Some left out, doubled, or in another order; often as they were."""
    chosen = [message for message in messages if random.random() < 0.9]
    chosen += [message for message in messages if random.random() < 0.1]
    if random.random() < 0.3:
        random.shuffle(chosen)
    return chosen
