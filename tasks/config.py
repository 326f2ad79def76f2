"""The shape of an experiment: one frozen model for every block of ops/configs/experiment_*.yaml.

Plain data without defaults: a key that is left out is an error, and exp_001_mvp states every key of every stage. Bounds
refuse values that can't be meant before anything is spent; where a bound isn't obvious, a comment says why. What no
experiment varies is a constant in code, also where results depend on it; the head of exp_001_mvp's file names where.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.criteria import Criterion
from engine.interval import CheckpointInterval
from retain.dataset import DatasetSpec, DescriptionError, feature_columns
from retain.frozen import Frozen
from retain.guard import GuardWords, in_force
from retain.monitoring import Monitoring
from retain.offers import Cap, Decay, Months, NotNegative, Offers, Percent, Positive, Share
from retain.parts import JUDGED_BY, KINDS, REQUIRED
from retain.quiet import QuietHours
from retain.rules import RulesError, RuleWords
from retain.wallet import Mode
from tasks.words import CuesConfig, EnglishConfig, PhrasesConfig

Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
# Below 100 resamples the ends of a 95 % interval rest on two or three of them.
Resamples = Annotated[int, Field(ge=100, le=100_000)]

# What the store keeps beside the experiments' folders.
RESERVED = ("aside", "debug", "downloads", "ledger", "prefect", "retrains", "rollout", "sources", "work")

StageName = Literal[
    "customers",
    "campaigns",
    "dialogues",
    "preferences",
    "risk",
    "accept",
    "backtest",
    "decision",
    "base",
    "prompts",
    "sft",
    "rm",
    "judge",
    "ppo_text",
    "text_eval",
    "messages",
    "release",
]


# -- data ---------------------------------------------------------------------------------------------------------


class Split(Frozen):
    """Shares of the one split that every later stage honours."""

    train: Fraction
    validation: Fraction
    test: Fraction

    @model_validator(mode="after")
    def _whole(self) -> Split:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, validation and test add up to {total:g}, not to 1")
        return self


class TableConfig(Frozen):
    """`customers` and `campaigns`: a table as its description says, capped and split."""

    dataset: DatasetSpec
    # Fewer rows than this leave a test part on which neither AUC nor ECE means anything.
    max_rows: Annotated[int, Field(ge=200)]
    split: Split


class TextFile(Frozen):
    """One file of text. `names` are looked for in a data folder (`.gz` is decompressed), then `url` is asked."""

    dataset: Literal["OASST1", "SGD", "SHP-2", "HH-RLHF"]
    names: Annotated[tuple[str, ...], Field(min_length=1)]
    url: str | None
    # Of the decompressed bytes; null where the publisher states none: taken as it is, its hash goes to the catalog.
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    licence: str


class _TextConfig(Frozen):
    files: Annotated[tuple[TextFile, ...], Field(min_length=1)]
    max_rows: Count
    # Lines that are no record, as a share of all; above it the file is damaged or another one.
    max_broken: Annotated[float, Field(ge=0, lt=1)]
    # Of a prompt with its reply; longer ones are left out and counted.
    max_characters: Annotated[int, Field(ge=100)]
    split: Split


class DialoguesConfig(_TextConfig):
    """`dialogues`: prompts and replies."""


class PreferencesConfig(_TextConfig):
    """`preferences`: prompts with a chosen and a rejected reply; halves A and B by prompt."""

    # Of SHP: the chosen reply has at least this many times the votes of the other; a post gives at most so many pairs.
    min_vote_ratio: Annotated[float, Field(ge=1)]
    max_pairs_a_post: Count


# -- tabular ------------------------------------------------------------------------------------------------------


class _Booster(Frozen):
    """XGBoost's own names and meanings."""

    # A tree of depth 16 has 65,536 leaves, more than there are rows to fill them.
    max_depth: Annotated[int, Field(ge=1, le=16)]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    subsample: Annotated[float, Field(gt=0, le=1)]
    colsample_bytree: Annotated[float, Field(gt=0, le=1)]
    min_child_weight: Annotated[float, Field(ge=0)]
    reg_lambda: Annotated[float, Field(ge=0)]


class StoppedBooster(_Booster):
    """Rounds are found by early stopping inside the training folds."""

    max_rounds: Annotated[int, Field(ge=1, le=10_000)]
    early_stopping_rounds: Count


class FixedBooster(_Booster):
    rounds: Annotated[int, Field(ge=1, le=10_000)]


class _Evaluation(Frozen):
    folds: Annotated[int, Field(ge=2, le=20)]
    bootstrap: Resamples
    ece_bins: Annotated[int, Field(ge=2, le=100)]
    # Simulated outcomes whose mean ECE is what exact scores would show by chance.
    chance_draws: Annotated[int, Field(ge=1, le=100_000)]


class RiskConfig(_Evaluation):
    booster: StoppedBooster
    # Half of a training fold kept aside would stop on more than it learns from.
    stop_fraction: Annotated[float, Field(gt=0, lt=0.5)]


class AcceptConfig(RiskConfig):
    # The campaign's columns that a live customer could have too: the model behind the bridge sees no others.
    bridge_columns: Annotated[tuple[str, ...], Field(min_length=1)]


class BacktestConfig(_Evaluation):
    """Trained once against retrained every `every` calls, scored in date order after the `first` share."""

    booster: FixedBooster
    first: Fraction
    every: Annotated[int, Field(ge=100)]
    window: Annotated[int, Field(ge=1000)]


# -- words ---------------------------------------------------------------------------------------------------------


class TemplateConfig(Frozen):
    """The two texts of a situation: with a discount, whose slots are {offer} and {months}, and without one."""

    offer: Annotated[str, Field(min_length=1)]
    no_offer: Annotated[str, Field(min_length=1)]


class WordsConfig(Frozen):
    """What is said and what may not be said, from ops/messages/*.yaml. A stage is given the words that its config
    model has a field for (flows.plan.stage_config)."""

    rules: RuleWords
    guard: GuardWords
    templates: dict[str, TemplateConfig]
    phrases: PhrasesConfig
    cues: CuesConfig
    english: EnglishConfig

    @model_validator(mode="after")
    def _fits(self) -> WordsConfig:
        try:
            in_force(self.rules, self.guard)
        except RulesError as error:
            raise RulesError(str(error), "guard", *error.path) from None
        return self


# -- language -----------------------------------------------------------------------------------------------------


class OptShape(Frozen):
    """OPT's own names: facebook/opt-350m's, or a tiny one."""

    vocab_size: Annotated[int, Field(ge=300, le=200_000)]
    hidden_size: Count
    num_hidden_layers: Count
    ffn_dim: Count
    num_attention_heads: Count
    word_embed_proj_dim: Count
    max_position_embeddings: Annotated[int, Field(ge=64)]
    do_layer_norm_before: bool


class Pretraining(Frozen):
    """Of weights that are trained from nothing, by AdamW. `messages` is the share of each batch that is of the
    retention domain. The learning rate rises during the first `warmup` of the steps, then follows half a cosine down
    to `final_rate` of itself."""

    messages: Annotated[float, Field(ge=0, le=1)]
    steps: Count
    batch: Count
    length: Annotated[int, Field(ge=16)]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    final_rate: Annotated[float, Field(ge=0, le=1)]
    betas: tuple[Fraction, Fraction]
    weight_decay: Annotated[float, Field(ge=0, lt=1)]
    max_gradient: Positive
    # Blocks of `length` tokens of the validation part, of each kind of text.
    held_out_blocks: Count


class WeightsFile(Frozen):
    """A file of published weights: `name` in a folder called like the model, below the data folder."""

    name: str
    url: str | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None


class BaseConfig(Frozen):
    """`base`: `scratch` trains the shape here, `random` draws it, `package` reads a GGUF from an installed
    Python package, the first part of its file's name, `hub` the published files. `own` is the weights' tokenizer,
    `bytes` a byte BPE of at most the shape's vocabulary, trained on dialogues and messages."""

    model: str
    weights: Literal["scratch", "random", "package", "hub"]
    tokenizer: Literal["own", "bytes"]
    precision: Literal["float32", "bfloat16"]
    shape: OptShape | None
    pretraining: Pretraining | None
    files: tuple[WeightsFile, ...]

    @model_validator(mode="after")
    def _fits(self) -> BaseConfig:
        made = self.weights in ("scratch", "random")
        if made and (self.shape is None or self.tokenizer == "own"):
            raise ValueError(f"weights: {self.weights} wants a shape and tokenizer: bytes")
        if (self.weights == "scratch") != (self.pretraining is not None):
            raise ValueError("pretraining goes with weights: scratch, and with no other")
        if not made and not self.files:
            raise ValueError(f"weights: {self.weights} wants the files that hold them")
        if not made and self.tokenizer != "own":
            raise ValueError(f"weights: {self.weights} wants tokenizer: own; to another one's ids they mean nothing")
        return self


class SenderConfig(Frozen):
    """Who writes: appended to every message with the way to opt out, never written by a model."""

    name: Annotated[str, Field(min_length=1, max_length=60)]
    address: Annotated[str, Field(min_length=1, max_length=120)]


class PromptsKeys(Frozen):
    """What an experiment states about `prompts`: how much of the retention domain is made."""

    offers: Annotated[tuple[Percent, ...], Field(min_length=1)]
    months: Months
    # Facts of a customer that a prompt tells.
    facts: Count
    # Share of training prompts that ask for what may not be said. A good reply to one does not give in; of flawed
    # replies the share `gives_in` does.
    invited: Annotated[float, Field(ge=0, lt=1)]
    gives_in: Annotated[float, Field(ge=0, le=1)]
    # Replies to imitate: of training customers, a share of them flawed, as those that people wrote would be; and of
    # validation customers, none of them flawed.
    targets: Count
    flawed: Annotated[float, Field(ge=0, lt=1)]
    validation_targets: Count
    # Preference pairs: of training customers for each half, and of test customers. In the share `same_reply` of them
    # the rejected reply is the chosen one with a flaw, in the others another reply with one.
    pairs: Count
    held_out_pairs: Count
    same_reply: Annotated[float, Field(ge=0, le=1)]
    # Prompts to sample from: of training, validation and test customers.
    train_prompts: Count
    validation_prompts: Count
    test_prompts: Count
    probes: Annotated[int, Field(ge=1)]


class PromptsConfig(PromptsKeys):
    """What the stage is given: its keys and the words that it works with."""

    phrases: PhrasesConfig
    rules: RuleWords


class Lora(Frozen):
    r: Annotated[int, Field(ge=1, le=512)]
    alpha: Annotated[int, Field(ge=1, le=1024)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    # The projections of attention alone, or those of the feed-forward layers too.
    targets: Literal["attention", "all"]


class FinetuneConfig(Frozen):
    """`sft`, `rm` and `judge`: LoRA adapters on quantised base weights. A step takes `batch` rows: of the retention
    domain as many as there are, `public` of them others; all are seen again until the steps are done."""

    lora: Lora
    bits: Literal[8, 16, 32]
    max_steps: Count
    batch: Count
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    warmup_steps: Annotated[int, Field(ge=0)]
    # Tokens of a prompt with its reply. Of longer ones the prompt loses its beginning, down to half of this; what is
    # still too much the reply loses of its end.
    max_length: Annotated[int, Field(ge=16)]
    public: Annotated[int, Field(ge=0)]
    held_out_public: Count


class SftConfig(FinetuneConfig):
    """Also, what is measured afterwards: on `held_out_targets` retention messages, and by `samples` replies of at most
    `sample_tokens` tokens, drawn at `sample_temperature`, which are evidence to be read."""

    held_out_targets: Count
    bootstrap: Resamples
    samples: Count
    sample_tokens: Count
    sample_temperature: Annotated[float, Field(gt=0, le=2)]


class RewardModelConfig(FinetuneConfig):
    # Weight of the squared mean of a pair's two scores, which holds scores near 0 (Eisenstein et al. 2023, eq. 2).
    center_rewards: NotNegative
    bootstrap: Resamples


class JudgeKeys(RewardModelConfig):
    """`rule_judge`: the first 16 hex digits of the digest of its code and cues, another one is refused."""

    rule_judge: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class JudgeConfig(JudgeKeys):
    """What the stage is given: its keys and the rule judge's cues."""

    cues: CuesConfig


class RewardWeights(Frozen):
    """reward = rm x clip(standardised RM score, +-clip) - safety x unsafe + brevity x (1 - tokens / max_tokens)
    - ending x (not ended)."""

    rm: Annotated[float, Field(ge=0)]
    safety: Annotated[float, Field(ge=0)]
    brevity: Annotated[float, Field(ge=0)]
    ending: Annotated[float, Field(ge=0)]
    clip: Positive


class KlConfig(Frozen):
    """Nats per token between policy and reference; the coefficient follows Ziegler et al. (2019)."""

    # Above 10 nothing of the reference is left.
    target: Annotated[float, Field(gt=0, le=10)]
    coefficient: Positive
    horizon: Count
    # The coefficient moves by at most this share of batch / horizon at once.
    max_change: Fraction


class StopsConfig(Frozen):
    """Signs of reward hacking, each looked for over `window` iterations; the first one stops the training."""

    window: Count
    # KL is estimated from samples. It counts as below 0 from so many standard errors and so many nats per token on.
    kl_errors: Positive
    kl_margin: NotNegative
    # And it is too high from this many times its target on.
    max_kl_ratio: Annotated[float, Field(gt=1)]
    min_distinct: Annotated[float, Field(ge=0, le=1)]
    # Mean tokens, as a factor of those of the reference's samples.
    max_length_ratio: Annotated[float, Field(gt=1)]
    min_length_ratio: Annotated[float, Field(ge=0, lt=1)]
    # Of the validation RM's mean score below its best, in standard deviations of the reference's, while the training
    # RM's rises.
    max_validation_drop: Positive


class TextPpoKeys(Frozen):
    """What an experiment states about `ppo_text`."""

    kl: KlConfig
    rewards: RewardWeights
    stops: StopsConfig
    max_tokens: Annotated[int, Field(ge=4, le=2048)]
    max_prompt: Annotated[int, Field(ge=8)]
    iterations: Count
    batch: Count
    minibatches: Count
    epochs: Count
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    # Norm at which a gradient is clipped: that of the policy and that of the value head, each.
    max_gradient: Positive
    gae_lambda: Annotated[float, Field(ge=0, le=1)]
    clip: Annotated[float, Field(gt=0, lt=1)]
    value_weight: Positive
    temperature: Annotated[float, Field(gt=0, le=2)]
    bits: Literal[8, 16, 32]
    validate_every: Count


class TextPpoConfig(TextPpoKeys):
    """What the stage is given: its keys and the words that it works with."""

    rules: RuleWords


class TextEvalKeys(Frozen):
    """What an experiment states about `text_eval`."""

    bits: Literal[8, 16, 32]
    batch: Count
    max_tokens: Annotated[int, Field(ge=4, le=2048)]
    temperature: Annotated[float, Field(gt=0, le=2)]
    bootstrap: Resamples
    shown: Count


class TextEvalConfig(TextEvalKeys):
    """What the stage is given: its keys and the words that it works with."""

    rules: RuleWords


class MessagesKeys(Frozen):
    """What an experiment states about `messages`: `candidates` of each model for every situation and offer, of which
    at most `kept` are kept. They are ranked as replies to the same `ranked_on` prompts of their situation and offer."""

    bits: Literal[8, 16, 32]
    batch: Count
    max_tokens: Annotated[int, Field(ge=4, le=2048)]
    temperature: Annotated[float, Field(gt=0, le=2)]
    candidates: Count
    kept: Count
    ranked_on: Count


class MessagesConfig(MessagesKeys):
    """What the stage is given: its keys and the words that it works with."""

    rules: RuleWords
    english: EnglishConfig


# -- decision -------------------------------------------------------------------------------------------------------


class AcceptanceAssumptions(Frozen):
    """P(accept): log-odds = level + shrink x bridge score's + slope ln(1 + percent / unit) - fatigue F; the level is
    where the risk-weighted mean at `at` percent is `mean`. `slope_sd`: share of the slope, between customers."""

    mean: Fraction
    at: Percent
    shrink: Share
    slope: NotNegative
    unit: Positive
    slope_sd: Share
    fatigue: NotNegative


class SleepingDogsAssumptions(Frozen):
    """A `share` of customers leaves at exp(rate) times the rate for `months` from a contact on; the likelier, the
    more loyal: `loyalty` in log-odds per log-odds of churn."""

    share: Fraction
    loyalty: NotNegative
    rate: NotNegative
    months: Months


class FatigueAssumptions(Frozen):
    """F, earlier contacts, decayed; raises the rate of leaving by exp(rate F)."""

    decay: Decay
    rate: NotNegative


class Assumptions(Frozen):
    """What is assumed of how customers answer and leave, where no public data tells: one key each, with its source."""

    # In which the label counts a customer as gone; a year is the other reading of IBM's table.
    label_months: Annotated[int, Field(ge=1, le=12)]
    # Answers come in so many times a month.
    answered: Annotated[int, Field(ge=1, le=30)]
    # Of an accepted offer, one for each level, never less for a higher level: it multiplies the rate of leaving by
    # exp(-effect).
    effect: Annotated[tuple[NotNegative, ...], Field(min_length=1)]
    effect_sd: Annotated[float, Field(ge=0, le=1)]
    hazard_sd: Annotated[float, Field(ge=0, le=2)]
    acceptance: AcceptanceAssumptions
    sleeping_dogs: SleepingDogsAssumptions
    fatigue: FatigueAssumptions

    @model_validator(mode="after")
    def _more_for_more(self) -> Assumptions:
        if list(self.effect) != sorted(self.effect):
            raise ValueError(f"effect {list(self.effect)}: falls as the level of the offer rises")
        return self


class SearchConfig(Frozen):
    """How baselines are tuned, all with the same effort: `evaluations` settings of `years` years each; `log_years` of
    a random test are what the learning ones learn from."""

    evaluations: Annotated[int, Field(ge=2, le=1000)]
    years: Count
    log_years: Count


class PpoConfig(Frozen):
    iterations: Count
    epochs: Annotated[int, Field(ge=1, le=100)]
    minibatches: Count
    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(min_length=1)]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    gae_lambda: Annotated[float, Field(ge=0, le=1)]
    clip: Annotated[float, Field(gt=0, lt=1)]
    entropy: NotNegative
    value_weight: Positive
    # Contacts per customer and year that the second multiplier holds the policy to.
    contacts: Positive
    # Of offer budget and contacts, at the start.
    multipliers: tuple[NotNegative, NotNegative]
    pid: tuple[NotNegative, NotNegative, NotNegative]
    price_spread: Annotated[float, Field(ge=0, le=2)]
    validate_every: Count


class OffPolicyConfig(Frozen):
    """A log of the uplift baseline that explores: `exploration` of its decisions are uniform over what is allowed."""

    exploration: Annotated[float, Field(ge=0, le=1)]
    min_effective: Positive
    max_unsupported: Fraction
    max_heaviest: Fraction
    max_weight_errors: Positive


# What a changed world changes, and by how much: a factor, or for label_months the number, for risk_shuffled 1.
Change = Literal["acceptance", "sleeping_dogs", "label_months", "fatigue", "risk_shuffled"]


class EvaluationConfig(Frozen):
    """`part` of the split, `years` simulated for each policy, the same ones for all. `cost` is what the policy may
    cost of what the best baseline cost on validation customers; `budgets` are those of the budget-to-lift curve."""

    part: Literal["validation", "test"]
    years: Count
    bootstrap: Resamples
    cost: Annotated[float, Field(gt=0, le=1)]
    budgets: Annotated[tuple[Fraction, ...], Field(min_length=1)]
    # Predicted quarterly churn from which a customer counts as at risk in the criteria.
    at_risk_from: Fraction
    off_policy: OffPolicyConfig
    worlds: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], dict[Change, Positive]]

    @model_validator(mode="after")
    def _rising(self) -> EvaluationConfig:
        if list(self.budgets) != sorted(set(self.budgets)):
            raise ValueError(f"budgets {list(self.budgets)}: wants rising shares of revenue, each once")
        return self

    @model_validator(mode="after")
    def _other_worlds(self) -> EvaluationConfig:
        for name, changes in self.worlds.items():
            if name == "as_assumed":
                raise ValueError("worlds.as_assumed: the unchanged world is always shown; a changed one wants a name")
            if not changes:
                raise ValueError(f"worlds.{name} changes nothing")
            if changes.get("label_months", 1) not in range(1, 13):
                raise ValueError(f"worlds.{name}.label_months {changes['label_months']:g}: wants whole months, 1 to 12")
            if changes.get("risk_shuffled", 1) != 1:
                raise ValueError(f"worlds.{name}.risk_shuffled {changes['risk_shuffled']:g}: is 1, or is left out")
        return self


class DecisionConfig(Frozen):
    """`decision`: what is learned, in which simulated year, and the three baselines that it is compared with."""

    months: Annotated[int, Field(ge=1, le=12)]
    offers: Offers
    cap: Cap
    # Share of months x the starting monthly revenue that offers and contacts may cost.
    budget: Annotated[float, Field(ge=0, le=1)]
    wallet: Mode
    seeds: Annotated[int, Field(ge=1, le=100)]
    baselines: tuple[Literal["threshold"], Literal["thompson_sampling"], Literal["uplift_tree"]]
    threshold_offer: Percent
    search: SearchConfig
    ppo: PpoConfig
    evaluation: EvaluationConfig
    assumptions: Assumptions

    @model_validator(mode="after")
    def _fits(self) -> DecisionConfig:
        if self.budget == 0:
            raise ValueError("a budget of 0 contacts nobody, so there is nothing to learn: wants a share of revenue")
        if self.threshold_offer not in self.offers.levels:
            raise ValueError(f"threshold_offer {self.threshold_offer} is not one of levels {list(self.offers.levels)}")
        if len(self.assumptions.effect) != len(self.offers.levels):
            raise ValueError(
                f"assumptions.effect has {len(self.assumptions.effect)} numbers for {len(self.offers.levels)} levels"
            )
        return self


# -- release ------------------------------------------------------------------------------------------------------


class ThresholdConfig(Frozen):
    """The first baseline: whoever's risk reaches the threshold that `decision` tuned is offered its threshold_offer."""

    rule: Literal["threshold"]
    reasons: Annotated[int, Field(ge=1, le=20)]


class ReleaseKeys(Frozen):
    """What an experiment states about `release`."""

    decision: ThresholdConfig
    sender: SenderConfig
    quiet_hours: QuietHours


class ReleaseConfig(ReleaseKeys):
    """What the stage is given: its keys, the words that it works with, the experiment's name and the criteria of what
    it judges."""

    rules: RuleWords
    guard: GuardWords
    templates: dict[str, TemplateConfig]
    experiment: str
    criteria: dict[str, dict[str, Criterion]]
    monitoring: Monitoring


class Stages(Frozen):
    """The hyperparameters of every stage, one block each."""

    customers: TableConfig
    campaigns: TableConfig
    dialogues: DialoguesConfig
    preferences: PreferencesConfig
    risk: RiskConfig
    accept: AcceptConfig
    backtest: BacktestConfig
    decision: DecisionConfig
    base: BaseConfig
    prompts: PromptsKeys
    sft: SftConfig
    rm: RewardModelConfig
    judge: JudgeKeys
    ppo_text: TextPpoKeys
    text_eval: TextEvalKeys
    messages: MessagesKeys
    release: ReleaseKeys

    @model_validator(mode="after")
    def _bridged(self) -> Stages:
        """`accept` would say so when it runs, after the table was read."""
        known = [column.name for column in feature_columns(self.campaigns.dataset)]
        for place, name in enumerate(self.accept.bridge_columns):
            if name not in known:
                raise DescriptionError(
                    f"no feature of the table {self.campaigns.dataset.name!r} of stages.campaigns: state those of its "
                    f"columns that a customer could have too, among {', '.join(known)}",
                    *("accept", "bridge_columns", place),
                )
        return self


# -- money, execution, operation ------------------------------------------------------------------------------------


class Machine(Frozen):
    """A machine that is rented. What it costs is in infra/prices.yaml, by the region of `costs`."""

    type: str
    gpu: Literal["nvidia-l4"] | None
    preemptible: bool


class OwnMachine(Machine):
    """The machine that a run is started on: a laptop is metered like the rented one that it resembles."""

    # Above $100 an hour no attempt of any length would fit the budget; it would be a slip of the decimal point.
    usd_per_hour: Annotated[float, Field(gt=0, le=100)]


class Machines(Frozen):
    """`local`: where a run's stages work unless they are sent elsewhere. `cpu` and `gpu`: the machines of work pools
    without and with a GPU. A GPU of the machine that a run is started on counts as `gpu`, too."""

    local: OwnMachine
    cpu: Machine
    gpu: Machine


class Component(Frozen):
    """A line of the playbook's cost table, and the stages whose money it is."""

    name: str
    estimate_usd: Annotated[float, Field(ge=0)]
    stages: Annotated[tuple[StageName, ...], Field(min_length=1)]


class Costs(Frozen):
    budget_usd: Positive
    # Names the ledger; experiments of one scope share one cap. It is a file's name, so it is kept plain. With `{month}`
    # at its end there is another one in each month (engine/ledger.py).
    scope: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_/-]*(\{month\})?$")]
    machines: Machines
    # Of the rented machines: prices differ between regions.
    region: Annotated[str, Field(pattern=r"^[a-z]+-[a-z]+[0-9]+$")]
    components: Annotated[tuple[Component, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_stage_once(self) -> Costs:
        stages = [stage for component in self.components for stage in component.stages]
        twice = sorted({stage for stage in stages if stages.count(stage) > 1})
        if twice:
            raise ValueError(f"stage {twice[0]!r} belongs to two components")
        return self


class Execution(Frozen):
    # A holder counts as gone after three missed beats, so a minute's beat would block a stage for three.
    heartbeat_s: Annotated[float, Field(ge=0.5, le=60)]
    # How often one stage may be asked to make room before that counts as a failure.
    max_preemptions: Annotated[int, Field(ge=0, le=1000)]
    # After so many preemptions of a stage its next attempt works on a machine that nobody takes away, where the pool
    # has such and the budget has room for one.
    on_demand_after: Annotated[int, Field(ge=1, le=1000)]
    # What a rented machine costs before and after the stage itself: boot, image pull, idle tail. Another one has none.
    overhead_s: Annotated[float, Field(ge=0, le=3600)]
    # How often stages save their state. Results don't depend on it.
    checkpoint: CheckpointInterval
    # What stages that can use a GPU run on. `cuda` where there is none is refused before anything runs.
    device: Literal["cpu", "cuda"]
    # Stages that exist, and the time after which each stops itself: a day is the longest that a budget of $100
    # could mean.
    time_limit_s: dict[StageName, Annotated[float, Field(ge=1, le=86_400)]]


class Canary(Frozen):
    """Read by the rollout, which is still to come; until then CANARY_PERCENT says whom the service treats so."""

    # Above half of the customers it would be the champion.
    percent: Annotated[float, Field(ge=0, le=50)]
    watch_hours: Positive
    # Minutes for which an alert has to stand before the challenger is rolled back.
    rollback_after_min: Positive
    rollback_forces_baseline: bool
    rollback_pages: bool


class Margins(Frozen):
    """Differences that don't matter: of the AUC, and of the Brier score."""

    auc: Annotated[float, Field(gt=0, le=0.1)]
    brier: Annotated[float, Field(gt=0, le=0.1)]


class NotWorseBy(Frozen):
    """How much worse than the champion's the models of a release may be that a retrain proposes (flows/promote.py)."""

    risk: Margins
    accept: Margins


class Experiment(Frozen):
    """ops/configs/experiment_<tag>.yaml, with what it extends and includes."""

    tag: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
    # numpy and XGBoost take other ranges; this one fits all of them.
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    synthetic_data: Literal["refuse", "allow"]
    stages: Stages
    words: WordsConfig
    criteria: dict[StageName, dict[str, Criterion]]
    costs: Costs
    execution: Execution
    monitoring: Monitoring
    canary: Canary
    not_worse_by: NotWorseBy

    @model_validator(mode="after")
    def _place_of_its_own(self) -> Experiment:
        if self.tag in RESERVED:
            raise ValueError(f"tag {self.tag!r} is a folder of the store; an experiment needs another name")
        return self

    @model_validator(mode="after")
    def _kinds_of_criteria(self) -> Experiment:
        deciding = {stage for part, stages in JUDGED_BY.items() if part not in REQUIRED for stage in stages}
        for stage, criteria in self.criteria.items():
            for metric, criterion in criteria.items():
                if criterion.kind not in KINDS and (criterion.kind is not None or stage in deciding):
                    raise ValueError(
                        f"criteria.{stage}.{metric}.kind is {criterion.kind!r}: wants {' or '.join(KINDS)}, which "
                        "decides whether a part of the release that misses it runs in the shadow or is left out"
                    )
        return self

    @model_validator(mode="after")
    def _words_for_every_offer(self) -> Experiment:
        offers, prompts = self.stages.decision.offers, self.stages.prompts
        if (prompts.offers, prompts.months) != (offers.levels, offers.months):
            raise ValueError(
                f"stages.prompts writes for offers {list(prompts.offers)} of {prompts.months} months, while "
                f"stages.decision.offers has {list(offers.levels)} of {offers.months}: they are to be the same"
            )
        return self

    @model_validator(mode="after")
    def _money_for_all(self) -> Experiment:
        paid = {stage for component in self.costs.components for stage in component.stages}
        unpaid = sorted(set(self.execution.time_limit_s) - paid)
        if unpaid:
            raise ValueError(f"stage {unpaid[0]!r} has a time limit, but no component of costs names it")
        return self
