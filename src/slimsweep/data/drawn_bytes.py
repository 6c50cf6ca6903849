"""Mix-in of calibrations: memory that their drawn sequences take, for plans."""

from abc import abstractmethod

from slimsweep.models.batch_sizes import BATCH_TOKENS


class DrawnBytes:
    """Bytes of drawn sequences, from their number and the longest of them."""

    sequences: int
    """Number of sequences drawn."""

    @property
    @abstractmethod
    def longest_tokens(self) -> int:
        """Upper bound of the tokens of one sequence; of a pair, source and target together."""

    def hidden_bytes(self, token_bytes: int) -> int:
        """Upper bound of the bytes of all sequences between two blocks, padding among them.

        The encoder's output stays while a decoder is calibrated, so that both count.

        Args:
            token_bytes: of the hidden state of one token.
        """
        return self.sequences * self.longest_tokens * token_bytes

    def working_bytes(self, token_bytes: int, is_whole: bool) -> int:
        """Approximate bytes of a forward through a block.

        Args:
            token_bytes: of one token in such a forward.
            is_whole: whether all sequences are in it; else one batch.
        """
        tokens = self.sequences * self.longest_tokens
        return token_bytes * (tokens if is_whole else min(max(BATCH_TOKENS, self.longest_tokens), tokens))
