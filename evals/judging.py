"""The model under `evaluate.judge`, asked about many answers at once. Replies are kept in the store like every reply,
so that an evaluation that is repeated asks nothing twice."""

from collections.abc import Sequence

from refinery import event_loop
from refinery.context import Context
from refinery.errors import RowError
from refinery.journal import Journal
from refinery.models import identity
from refinery.records import Message, digest
from refinery.services import Services
from refinery.spec import Spec
from refinery.store import Store

MAX_TOKENS = 512


def of(spec: Spec, store: Store) -> "Judge | None":
    """The judge that a spec names, if it names one."""
    return Judge(spec, store, spec.evaluate.judge) if spec.evaluate and spec.evaluate.judge else None


class Judge:
    """Needs the store's run lock when it is asked, as every request does."""

    def __init__(self, spec: Spec, store: Store, name: str):
        self.spec, self.store, self.name = spec, store, name
        self.identity = digest([identity(spec.models[name]), spec.seed, MAX_TOKENS])

    def __call__(self, asked: Sequence[Sequence[Message]]) -> list[str | None]:
        """Greedy replies in order; None where the model failed on one or was cut off."""

        async def run() -> list[str | None]:
            services = Services(self.spec.models, self.store, journal)
            try:
                ctx = Context("judge", self.spec.seed, services)

                async def ask(messages: Sequence[Message]) -> str | None:
                    reply = await ctx.ask(self.name, list(messages), max_tokens=MAX_TOKENS)
                    return reply.text if reply.finish_reason == "stop" else None

                replies = await ctx.map(ask, asked)
                return [None if isinstance(reply, RowError) else reply for reply in replies]
            finally:
                await services.close()

        with Journal(self.store) as journal:
            return event_loop.run(run())
