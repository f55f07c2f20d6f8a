"""Draw documents from a stationary Markov chain, and state their entropy: what kinds share whose text is one."""

from typing import Any

from experiments.data.alphabet import spell_each
from experiments.data.sources.synthetic.support import randomness
from experiments.data.sources.synthetic.support.chain import Chain
from experiments.data.sources.synthetic.support.entropy import Entropy
from experiments.data.sources.synthetic.support.process import Block, Process


class ChainProcess(Process):
    """A process whose documents are stretches of `chain`, of `options.length` symbols on average."""

    options: Any
    chain: Chain

    def draw(self, block: Block) -> list[str]:
        """Draw documents that begin anywhere in the chain."""
        lengths = randomness.lengths(block.random, self.options.length, block.count)
        drawn = self.chain.draw(block.count, lengths.max(), block.random)
        return spell_each(drawn, lengths)

    def entropy(self) -> Entropy:
        """Return the exact entropy."""
        mean = self.options.length
        return Entropy(self.chain.document_nats(mean) / (mean + 1))
