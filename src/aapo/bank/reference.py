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
from aapo.scoring import as_prompts, total_rewards

COLUMNS = ("prompt_key", "reference_rewards", "reference_correct")
_OTHER_BANK = "build another with `aapo bank build RECIPE --output FOLDER`, or leave reference_bank out"


class ReferenceBank(SampleStore):
    """Rewards of a frozen reference model, by prompt key: a bank's samples by one of its score sets."""

    purpose: ClassVar[str] = "reference"

    @classmethod
    def matching(cls, path: str | Path, identity: BankIdentity, num_samples: int | None = None) -> Self:
        """The bank at `path` by the score set of this identity, with the first K samples of each prompt.

        Raises:
            InputError: The bank is another one, or is not scored so; the message names each difference.
        """
        known = find_score_set(Path(path), identity["rewards"])
        bank = cls.open(path, identity["rewards"] if known else None, num_samples)
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
        weights = self.weights(reward_weights)
        prompts = as_prompts(dataset, tokenizer, **template_options)
        self.require_prompts({prompt.key: prompt.rendered for prompt in prompts})
        keys = [prompt.key for prompt in prompts]
        totals, correct = [self.totals(key, weights) for key in keys], [self.correct(key, judge) for key in keys]
        kept = dataset.remove_columns([name for name in COLUMNS if name in dataset.column_names])
        for name, values in zip(COLUMNS, (keys, totals, correct), strict=True):
            kept = kept.add_column(name, values)
        return kept

    def weights(self, given: Mapping[str, float] | None = None) -> dict[str, float]:
        """The weight of each of the bank's reward functions, by default 1.

        Raises:
            InputError: Weights are given for others.
        """
        names = self.identity["rewards"]
        if given is not None and set(given) != set(names):
            raise InputError(
                f"reward_weights are for {', '.join(given)}; the bank's reward functions are {', '.join(names)}"
            )
        return dict(given or dict.fromkeys(names, 1.0))

    def totals(self, key: str, weights: Mapping[str, float]) -> list[float]:
        """The weighted sum of the rewards of each of a prompt's K samples; NaN where none could score it."""
        return total_rewards(self.rewards(key), weights)

    def require_prompts(self, prompts: Mapping[str, str]) -> None:
        """Check that the bank has all of these prompts.

        Args:
            prompts: By key, the text that a message names each by.

        Raises:
            InputError: It has not.
        """
        if lacking := [text for key, text in prompts.items() if key not in self]:
            raise InputError(_missing(self, lacking, len(prompts)))


def _missing(bank: ReferenceBank, missing: Sequence[str], total: int) -> str:
    first = missing[0].replace("\n", " ")
    where = (
        "none of its prompts is there, so it was built for another data set" if len(missing) == total else "add them"
    )
    return (
        f"{len(missing)} of {total} prompts are not in the bank {bank.path} (first: {first[-120:]!r}); {where}: `aapo "
        f"bank build RECIPE --output {bank.path}`"
    )
