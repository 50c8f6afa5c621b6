"""What goes wrong inside a training loop, before it is known which rows and which checkpoint that concerns."""


class Diverged(Exception):
    """The training is of no use any more. `since`: the first step that went wrong; `step`: that at which it showed."""

    def __init__(self, words: str, step: int, since: int):
        super().__init__(words)
        self.step, self.since = step, since
