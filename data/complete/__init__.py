"""The complete plays as a corpus whose losses compare with tinyshakespeare's.

Validation: tinyshakespeare's own validation split, to the character. It begins in The Taming of the Shrew and ends in
The Tempest. Training: the 35 other plays, and of these two what tinyshakespeare trains on as well, the Shrew's scenes
before the split: without them every name of its cast is new to the model, which costs more than 28 more plays bring.
The poems are verified with the plays and left out of the text: they are not dialogue, and what is learned here is how a
speech answers another.
"""

from data.complete.files import read_files
from data.complete.plays import as_tinyshakespeare, layout, read_play

POEMS = ("loverscomplaint.txt", "rapeoflucrece.txt", "sonnets.txt", "various.txt", "venusandadonis.txt")
HELD_OUT = ("tamingoftheshrew.txt", "tempest.txt")
VALIDATION = slice(37_721, 149_261)
"""Where tinyshakespeare's validation split lies in the two plays of HELD_OUT as it has them, one after the other."""


def complete_texts() -> tuple[str, str]:
    """(training text, validation text), of which the second continues the first; UserError as `read_files` has it."""
    files = read_files()
    training = [source for name, source in files.items() if name not in (*POEMS, *HELD_OUT)]
    held_out = "\n".join(as_tinyshakespeare(files[name]) for name in HELD_OUT)
    plays = "".join(layout(read_play(source).speeches) + "\n" for source in training)
    return plays + held_out[: VALIDATION.start], held_out[VALIDATION]
