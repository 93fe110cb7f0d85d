"""The reference bank: a frozen reference model's samples and rewards, kept as data.

Shapes: P prompts, K reference samples per prompt.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from datasets import Dataset

from aapo.bank.identity import BankIdentity, differences, sample_identity
from aapo.bank.storage import find_score_set
from aapo.bank.store import SampleStore
from aapo.errors import InputError
from aapo.grading import BY_VERDICT, Judge
from aapo.records import Prompt
from aapo.scoring import as_prompt, total_rewards

COLUMNS = ("prompt_key", "reference_rewards", "reference_correct")
_OTHER_BANK = "build another with `aapo bank build RECIPE --output FOLDER`, or leave reference_bank out"


class ReferenceBank(SampleStore):
    """Rewards of a frozen reference model, by prompt key: a bank's samples by one of its score sets."""

    purpose: ClassVar[str] = "reference"

    @classmethod
    def matching(cls, path: str | Path, identity: BankIdentity) -> Self:
        """The bank at `path` by the score set of this identity.

        Raises:
            InputError: The bank is another one, or is not scored so; the message names each difference.
        """
        known = find_score_set(Path(path), identity["rewards"])
        bank = cls.open(path, identity["rewards"] if known else None)
        bank.require(identity)
        return bank

    def require(self, identity: BankIdentity) -> None:
        """Check that the bank was sampled and scored as a run needs it.

        Raises:
            InputError: It was not; the message names each difference.
        """
        if not (found := differences(self.identity, identity)):
            return
        fix = _OTHER_BANK
        if differences(sample_identity(self.identity), sample_identity(identity)) == []:
            fix = self._rescoring(identity)
        raise InputError(f"the bank {self.path} does not match this run: {'; '.join(found)}; {fix}")

    def _rescoring(self, identity: BankIdentity) -> str:
        """How to come by the scores of `identity`, whose samples these are."""
        if find_score_set(self.path, identity["rewards"]):
            return "only the rewards differ, and the bank has these scores as well: give `open` their versions"
        names = "" if self.identity["rewards"].keys() == identity["rewards"].keys() else " --reward_funcs ..."
        return (
            f"only the rewards differ, so the samples can stay: score them with `aapo bank rescore {self.path}{names}`,"
            " or leave reference_bank out, for a recipe scores its bank in the cache by itself"
        )

    def attach(
        self,
        dataset: Dataset,
        tokenizer: Any,
        reward_weights: Mapping[str, float] | None = None,
        judge: Judge = BY_VERDICT,
        **template_options: Any,
    ) -> Dataset:
        """The data set with three more columns, by prompt key.

        `prompt_key`; `reference_rewards`, K weighted sums, NaN where unscored; `reference_correct`, for each of the K
        samples 1 if it is right, 0 if not, null where nothing says.

        Args:
            dataset: Columns `prompt` and `answer`.
            tokenizer: Renders the prompts as the bank's builder did.
            reward_weights: Weight of each of the bank's reward functions by name; 1 each by default.
            judge: Says which samples are right.
            **template_options: Passed to the chat template.

        Raises:
            InputError: A prompt is not in the bank, or the weights are not those of its reward functions.
        """
        weights = reward_weights if reward_weights is not None else dict.fromkeys(self.identity["rewards"], 1.0)
        if set(weights) != set(self.identity["rewards"]):
            raise InputError(
                f"reward_weights are for {', '.join(weights)}; the bank's reward functions are "
                f"{', '.join(self.identity['rewards'])}"
            )
        prompts = [as_prompt(dict(row), tokenizer, **template_options) for row in dataset]
        missing = [prompt for prompt in prompts if prompt.key not in self]
        if missing:
            raise InputError(_missing(self, missing, len(prompts)))
        totals = [total_rewards(self._table[prompt.key].rewards, weights) for prompt in prompts]
        correct = [self.correct(prompt.key, judge) for prompt in prompts]
        kept = dataset.remove_columns([name for name in COLUMNS if name in dataset.column_names])
        for name, values in zip(COLUMNS, ([prompt.key for prompt in prompts], totals, correct), strict=True):
            kept = kept.add_column(name, values)
        return kept


def _missing(bank: ReferenceBank, missing: Sequence[Prompt], total: int) -> str:
    first = missing[0].rendered.replace("\n", " ")
    where = (
        "none of its prompts is there, so it was built for another data set" if len(missing) == total else "add them"
    )
    return (
        f"{len(missing)} of {total} prompts are not in the bank {bank.path} (first: {first[-120:]!r}); {where}: `aapo "
        f"bank build RECIPE --output {bank.path}`"
    )
