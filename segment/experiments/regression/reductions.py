"""What a protocol leaves out of the paper's, in a sentence: the pages of the regression experiments print it.

Must not know an experiment.
"""

from __future__ import annotations

from segment.experiments.regression.methods import Protocol


def reductions(protocol: Protocol) -> str:
    """A sentence on every part of the search or the training that is smaller than the paper's; "" where none is.

    >>> reductions(Protocol(folds=3, members=2))
    "Reduced against the paper's protocol: 3 folds instead of 5; an ensemble of 2 networks instead of 5. "
    """
    whole = Protocol()
    race, of_paper = protocol.race, whole.race
    grids = {
        "L2": (protocol.l2, whole.l2),
        "the mini-batch": (protocol.batches, whole.batches),
        "the dropout rate": (protocol.dropouts, whole.dropouts),
        "MNF's precision": (protocol.precisions, whole.precisions),
    }
    parts = [
        f"{name} takes {len(own)} of its {len(every)} values"
        for name, (own, every) in grids.items()
        if len(own) < len(every)
    ]
    counts = (
        (protocol.folds, whole.folds, "{} folds instead of {}"),
        (race.epochs, of_paper.epochs, "at most {} epochs instead of {}"),
        (race.patience, of_paper.patience, "patience {} instead of {}"),
        (protocol.draws, whole.draws, "T = {} draws instead of {}"),
        (protocol.members, whole.members, "an ensemble of {} networks instead of {}"),
    )
    parts += [words.format(own, every) for own, every, words in counts if own < every]
    if race.rungs:
        rungs = ", ".join(f"{epoch}" for epoch in race.rungs)
        parts.append(
            "within each batch size, dropout rate or MNF the worse half of the candidates is dropped at "
            f"epochs {rungs} (successive halving)"
        )
    if race.of is None and race.draws < protocol.draws:
        parts.append(f"the error that the search looks at is that of {race.draws} draws instead of {whole.draws}")
    if protocol.flow_steps is not None:
        own = f"{protocol.flow_rate:g}, at most {protocol.flow_steps} steps"
        parts.append(f"MNF is trained faster and shorter ({own}) than the authors did (1e-3, 2000 epochs)")
    return f"Reduced against the paper's protocol: {'; '.join(parts)}. " if parts else ""
