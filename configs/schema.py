"""Schema: every key a user can set, with its unit and what a larger value does.

Frozen dataclasses only: no torch, no Ray, no numpy, nothing else of ours. ``configs.load`` turns a
YAML file and ``key=value`` overrides into one frozen ``Config``; nothing else in the project reads
YAML or has a default of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from configs.fields import (
    STRICT,
    Count,
    FilePath,
    Flag,
    Natural,
    NotNegative,
    Number,
    Positive,
    Rate,
    Share,
    Text,
    Whole,
    Workers,
)
from configs.methods import (
    PPO,
    AllSteps,
    Baseline,
    Constant,
    Correction,
    FullWeights,
    Lora,
    NoCorrection,
    Sampler,
    Schedule,
    Surrogate,
    TrainedSteps,
)


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One block of the chain. The mapping's key is its name and its tag."""

    kind: Literal["text", "image"] = "text"
    """What comes out: text between the tags, or a picture."""
    policy: Text = "text"
    """Name of the policy (a key of ``policies``) that writes it."""
    max_tokens: Whole = 0
    """Text blocks: most tokens sampled for it, its tags included."""
    size_px: Whole = 0
    """Image blocks: width of the picture, pixels."""
    height_px: Whole = 0
    """Image blocks: its height, pixels; 0 is a square."""
    num_steps: Whole = 0
    """Image blocks of a denoising policy: denoising steps K. More is slower and finer."""


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """How a policy learns: its ranks, and AdamW."""

    num_ranks: Workers = 1
    """Learner ranks (data parallel)."""
    zero_stage: Literal[1, 2, 3] = 2
    """DeepSpeed ZeRO stage: 1 shards optimizer states, 2 gradients, 3 weights."""
    micro_batch_size: Count = 16
    """Most chains (or denoising steps of pictures) in one forward pass of a rank, and pictures painted at once. Larger
    is faster, until memory ends."""
    learning_rate: Rate = 1e-5
    """AdamW learning rate in GRPO."""
    warmup_steps: Natural = 0
    """Optimizer steps over which the learning rate rises from 0, before its ``schedule`` begins."""
    schedule: Schedule = field(default_factory=Constant)
    """What the learning rate does from there to the run's last optimizer step (``num_steps`` times
    ``updates_per_batch``): ``constant``, ``linear`` or ``cosine``, a name or a mapping."""
    weight_decay: Share = 0.0
    """AdamW weight decay."""
    max_grad_norm: Positive = 1.0
    """Gradient norm above which gradients are scaled down."""
    ema_decay: Share = 0.0
    """Decay of the moving average of the weights that is evaluated and exported, an optimizer step; 0 keeps none.
    The first steps count for more: the decay rises to it (``actors.learner.ema``)."""
    gradient_checkpointing: Flag = False
    """Keep the inputs of a model's layers only, and compute the rest again in the backward pass: much less memory for
    a third more time."""
    offload_optimizer: Flag = False
    """Keep float32 weights, optimizer states and moving average on the host and make AdamW's step there: 12 to 16
    bytes a weight less on the GPUs, for slower steps. Without GPUs they are there anyway."""
    lora: Lora = field(default_factory=FullWeights)
    """Train low-rank adapters instead of the weights: a name or a mapping. The reference of ``loss.kl_weight`` is
    then the policy without them."""


@dataclass(frozen=True, kw_only=True)
class TokenLearner(LearnerConfig):
    """How a token policy learns."""

    max_tokens: Natural = 0
    """Most tokens in one forward pass of a rank, padding included (rows times the longest); a longer chain is alone
    in one. ``micro_batch_size`` stays the most rows. Larger is faster, until memory ends; 0 is no bound."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """What the rollout workers of every kind of policy share.

    The learner scores under the same settings: what decides how an action was drawn stands here, what is made of
    its log-prob in ``loss``.
    """

    num_workers: Workers = 1
    """Rollout actors that serve the policy."""
    transport: Literal["object_store", "gloo", "nccl", "ipc"] = "object_store"
    """How new weights reach them: through Ray's object store, by broadcast (gloo on CPUs, NCCL between GPUs), or as
    shared memory of one GPU (``docs/weights.md``)."""
    canary_tolerance_nats: Annotated[NotNegative, Field(le=10)] = 0.0
    """Largest log-prob difference between rollout worker and learner after a weight update; 0 follows the policy's
    ``dtype``: 1e-4 in float32, 0.1 in bfloat16, whose 8 bits two kernels agree on to a few hundredths of a nat."""


@dataclass(frozen=True, kw_only=True)
class TokenRollout(RolloutConfig):
    """How tokens are sampled."""

    tensor_parallel: Annotated[Count, Field(le=64)] = 1
    """Processes that share the weights and the cache of one worker, each with ``num_gpus`` GPUs and ``num_threads``
    threads: for models that one GPU does not hold. They are on one machine."""
    temperature: Annotated[Positive, Field(le=10)] = 1.0
    """Sampling temperature, applied in scoring too. Larger explores more."""
    guidance_scale: Annotated[NotNegative, Field(le=100)] = 1.0
    """Classifier-free guidance, in sampling and scoring alike; 1 is none. A unified policy's is of its pictures alone;
    a denoising policy's is an argument of ``call``."""
    max_context: Natural = 0
    """Longest context, tokens: prompt, pictures and answer; 0 is what the model allows, for which the engine's cache
    must have room."""


@dataclass(frozen=True, kw_only=True)
class DenoisingRollout(RolloutConfig):
    """How denoising steps are sampled: the random step, its log-prob, and which steps are random."""

    sampler: Sampler = "flow_grpo"
    """The random step: ``flow_grpo``, ``dance``, ``cps``, ``ddim``, or ``package.module:SAMPLER``
    (``rl.denoising.samplers.Sampler``)."""
    noise_level: Annotated[Positive, Field(le=10)] = 0.7
    """The sampler's noise (Flow-GRPO and CPS a, DanceGRPO and DDIM eta). Larger explores more; 0 would be the ODE."""
    logprob_reduction: Literal["mean", "sum"] = "mean"
    """A step's log-prob is the mean or the sum over latent elements. A sum is thousands of times larger: so must be
    ``loss.surrogate.clip_*`` (0.2 as for tokens) and ``canary_tolerance_nats``."""
    trained_steps: TrainedSteps = field(default_factory=AllSteps)
    """Which steps are random and trained, a name or a mapping."""
    shared_noise: Flag = False
    """The pictures of a group start from the same noise."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the losses of every kind of policy share."""

    surrogate: Surrogate = field(default_factory=PPO)
    """Importance ratio and what is made of it: a name or a mapping (``configs.methods``)."""
    aggregation: Literal["action_mean", "sequence_mean", "block_mean", "constant"] = "action_mean"
    """What an optimizer step's loss is a mean of: its actions; its sequences (a chain's tokens, a picture),
    each the mean of its actions, or of its blocks' means; or sums over a sequence's most actions, a constant."""
    correction: Correction = field(default_factory=NoCorrection)
    """What is done about the mismatch between rollout worker and learner: a name or a mapping."""
    kl_weight: Annotated[NotNegative, Field(le=100)] = 0.0
    """Weight of the KL to the frozen starting policy; 0 does not load one."""
    kl_estimator: Literal["k1", "k2", "k3", "step_mean"] = "k3"
    """How the KL is estimated from a sampled action; ``step_mean`` is exact for denoising steps, and theirs only."""


@dataclass(frozen=True, kw_only=True)
class TokenLoss(LossConfig):
    """The loss of a token policy."""

    entropy_weight: Annotated[NotNegative, Field(le=100)] = 0.0
    """Weight of the entropy bonus. Larger explores more."""


@dataclass(frozen=True, kw_only=True)
class DenoisingLoss(LossConfig):
    """The loss of a denoising policy, whose entropy is fixed by its noise."""

    step_weighting: Literal["uniform", "noise"] = "uniform"
    """Every trained step counts alike, or in proportion to its noise (TempFlow-GRPO)."""


@dataclass(frozen=True, kw_only=True)
class _Policy:
    """What trained policies of every kind share: where they start, and what their processes get."""

    family: Text = ""
    """Model family: a name of ``actors.policies.family``, or ``package.module:RECORD`` of your own; empty is the kind's
    own."""
    source: FilePath = "coldstart"
    """Checkpoint directory in the Hugging Face / diffusers layout, or ``coldstart``."""
    num_threads: Annotated[Count, Field(le=1024)] = 1
    """CPU threads of each of its processes."""
    num_gpus: Annotated[NotNegative, Field(le=64)] = 0.0
    """GPUs of each of its processes; 0 runs on the CPU."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number type of the rollout engine and the learner's forward pass."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """How it learns."""


@dataclass(frozen=True, kw_only=True)
class _Writer(_Policy):
    """What policies that write tokens share (vLLM)."""

    coldstart: Flag = False
    """Train ``source`` on supervised chains before GRPO, as the paper does, its tags added where it has none; a source
    of ``coldstart`` is made from nothing in any case."""
    chat_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the checkpoint's chat template, such as ``enable_thinking``."""
    learner: TokenLearner = field(default_factory=TokenLearner)
    """How it learns."""
    rollout: TokenRollout = field(default_factory=TokenRollout)
    """How it samples."""
    loss: TokenLoss = field(default_factory=TokenLoss)
    """What is minimised."""


@dataclass(frozen=True, kw_only=True)
class TokenPolicyConfig(_Writer):
    """A policy that writes text."""

    kind: Literal["token"] = "token"
    """Name."""


@dataclass(frozen=True, kw_only=True)
class UnifiedPolicyConfig(_Writer):
    """A policy that writes whole chains, text and pictures, as tokens of one vocabulary."""

    kind: Literal["unified"] = "unified"
    """Name."""
    stride_px: Annotated[Count, Field(le=64)] = 4
    """Edge of what one code of a picture stands for, pixels: of a checkpoint its own, from nothing as said here."""


@dataclass(frozen=True, kw_only=True)
class DenoisingPolicyConfig(_Policy):
    """A policy that paints by denoising steps (diffusers)."""

    kind: Literal["denoising"] = "denoising"
    """Name."""
    call: dict[str, Any] = field(default_factory=dict)
    """Arguments of the pipeline: ``{image: degraded, prompt: text, guidance_scale: 4}`` (``configs.call``). Its prompt
    is the text so far, and arguments named like a picture get it, where nothing else is said."""
    trust_code: Flag = False
    """Run the code that ``source`` brings, a ``pipeline.py`` in its folder; look at it first."""
    rollout: DenoisingRollout = field(default_factory=DenoisingRollout)
    """How it samples."""
    loss: DenoisingLoss = field(default_factory=DenoisingLoss)
    """What is minimised."""


WriterConfig = TokenPolicyConfig | UnifiedPolicyConfig
"""A policy that writes tokens, of text alone or of pictures too."""
PolicyConfig = Annotated[
    TokenPolicyConfig | DenoisingPolicyConfig | UnifiedPolicyConfig, Field(discriminator="kind")
]


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """From scores to advantages."""

    credit: Literal["block", "chain"] = "block"
    """Who earns a reward: the blocks it judges, or the whole chain (the paper)."""
    combine: Literal["sum", "each"] = "each"
    """Rewards are summed by weight and the sum is normalised once (GRPO and most of its kin), or each is normalised
    and then summed by weight (GDPO; ours, so that a wide reward drowns no narrow one)."""
    gate: Text = ""
    """Name of a reward: where it is not at its best, the others count as if their input were missing."""
    baseline: Baseline = "group"
    """What a reward is compared with: its ``group``'s mean, the mean of the others in the group (``leave_one_out``),
    the ``batch``'s mean, or what ``package.module:function`` says (``rl.advantage.baselines.Baseline``)."""
    scale: Literal["group_std", "batch_std", "none"] = "group_std"
    """What the difference is divided by."""
    whiten: Flag = False
    """Bring the batch's advantages to mean 0 and deviation 1 at the end (GDPO)."""
    over: Literal["chains", "actions"] = "chains"
    """What the batch's means and deviations (``baseline=batch``, ``scale=batch_std``, ``whiten``) are taken over: its
    chains, or their actions, so that a chain counts as often as it acts (REINFORCE++)."""
    clip: NotNegative = 0.0
    """Advantages are held within this; 0 is no bound."""
    eps: Share = 1e-4
    """Added to every standard deviation."""


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """One reward. The mapping's key is its name in metrics; with ``weight=0`` it is measured only.

    What is measured only is scored on training chains and held-out prompts, never trained on, and watched
    (``alarm_window``).
    """

    target: Text = ""
    """``package.module:Thing``, a ``Reward`` class."""
    weight: Annotated[NotNegative, Field(le=1e6)] = 1.0
    """Factor on its advantage; 0 only measures it."""
    blocks: list[Text] = field(default_factory=list)
    """Blocks it gives credit to when ``advantage.credit=block``; empty takes what the reward declares."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the reward's constructor."""
    on_failure: Literal["raise", "drop_chain", "drop_group", "monitor_only"] = "drop_chain"
    """What a scorer error costs: the run, the chain, its group, or nothing but a count."""
    num_workers: Workers = 1
    """Reward actors in its pool."""
    num_cpus: Annotated[NotNegative, Field(le=1024)] = 1.0
    """CPU cores each of them reserves for scoring threads (at least one thread is used)."""
    num_gpus: Annotated[NotNegative, Field(le=64)] = 0.0
    """GPUs each of them reserves; fractions share one."""
    batch_size: Count = 16
    """Most chains scored in one call."""
    deadline_s: NotNegative = 0.0
    """Longest a reward actor may work without an answer before it is replaced, seconds; 0 is a quarter of the
    run's ``deadline_s``."""
    cache: Flag = False
    """Keep scores and give them again to chains of equal content; for deterministic rewards."""
    env: dict[str, Any] = field(default_factory=dict)
    """An environment of its own: ``pip`` (a list, or a requirements file), ``python`` (an interpreter that has
    the same Ray), ``env_vars``."""


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """Photographs and how they are degraded."""

    kind: Literal["photographs"] = "photographs"
    """Name."""
    images: FilePath = "builtin"
    """Folder of photographs (nested; PNG, JPEG, WebP, TIFF), or ``builtin`` for scikit-image's."""
    pairs: FilePath = ""
    """Folder with ``LR`` and ``HR`` subfolders of equal names; replaces ``images`` for evaluation."""
    degradation: Literal["realesrgan", "light", "mild"] = "realesrgan"
    """Degradation preset: Real-ESRGAN x4plus, the lighter StableSR set, or mild for tiny pictures."""
    holdout_photos: Natural = 2
    """Whole photographs kept out of training for the picture metrics."""
    holdout_frac: Annotated[Share, Field(le=0.9)] = 0.25
    """Share of every other photograph kept out of training for held-out crops, 0..1."""
    zoom: list[Number] = field(default_factory=lambda: [1.0, 3.0])
    """Crops cover ``zoom`` x the output size of the photograph and are scaled down to it."""


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """A data source of the user's own; ``data.target`` alone means it."""

    kind: Literal["own"] = "own"
    """Name."""
    target: Text = ""
    """``package.module:Class``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of its constructor."""


@dataclass(frozen=True, kw_only=True)
class PromptTable:
    """Prompts from a file or data set; ``data.prompts`` alone means it (``docs/data.md``)."""

    kind: Literal["prompts"] = "prompts"
    """Name."""
    prompts: FilePath = ""
    """Where the prompts are: a file (JSONL, JSON, CSV, TSV, Parquet, text), several by a pattern with ``*``, a folder
    that ``datasets`` wrote or reads, or a data set's hub name, ``owner/name`` or ``owner/name:configuration``;
    ``@split`` may follow. With vlcot come ``builtin``, 6,400 sums, and ``builtin:layouts``, 360 pictures in words."""
    split: Text = "train"
    """Which of its splits is trained on, where ``prompts`` does not say."""
    format: Literal["auto", "verl", "easyr1", "trl", "plain"] = "auto"
    """Whose columns it has; ``auto`` tells by their names, and says so."""
    prompt: Text = ""
    """Column of the prompts, text or messages; empty is the format's."""
    ground_truth: Text = ""
    """Column of the answers, ``a.b`` for a key inside a column; empty is the format's."""
    images: Text = ""
    """Column of the pictures that the policies see; empty is ``images`` or ``image``, where there is one."""
    pictures: list[Text] = field(default_factory=list)
    """Columns of further pictures, for rewards and metrics alone (``truth``, for instance)."""
    image_dir: FilePath = ""
    """Folder that relative paths of pictures start from; empty is the file's own."""
    template: Text = ""
    """Jinja template of prompts that are text, or a file of one: ``content`` is the prompt, columns have theirs."""
    held_out: FilePath = ""
    """A second file, folder or data set to evaluate on, or another split of the same; written as ``prompts``."""
    holdout_frac: Annotated[Share, Field(le=0.9)] = 0.05
    """Share of the prompts that is kept out of training to evaluate on, where nothing else is named."""
    too_long: Literal["stop", "drop"] = "stop"
    """What becomes of a prompt that is longer than the model's context: the run ends and names it, or goes without."""


DataConfig = Annotated[Photographs | OwnData | PromptTable, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class ColdstartConfig:
    """Supervised start of both policies and the learned expert."""

    directory: FilePath = ""
    """Where the cold start lies and is reused from; empty is ``<output_dir>/coldstart-<digest>``."""
    num_examples: Count = 12000
    """Degraded crops made once and trained on."""
    num_workers: Annotated[Count, Field(le=1024)] = 1
    """Ray Train workers (data parallel) of each job."""
    text_steps: Natural = 2100
    """Optimizer steps of the text policy."""
    text_batch_size: Count = 48
    """Chains a text step, over all workers."""
    text_learning_rate: Rate = 7e-4
    """AdamW peak learning rate of the text policy."""
    image_steps: Natural = 1600
    """Optimizer steps of the image policy."""
    image_batch_size: Count = 16
    """Pictures an image step, over all workers."""
    image_learning_rate: Rate = 1.5e-3
    """AdamW peak learning rate of the image policy."""
    codec_steps: Natural = 600
    """Optimizer steps of the picture tokenizer that a unified policy is made with from nothing."""
    expert_steps: Natural = 300
    """Optimizer steps of the learned visual expert; 0 trains none."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Held-out evaluation."""

    num_prompts: Annotated[Count, Field(le=100_000)] = 48
    """Held-out prompts; half are crops of the kept-out photographs."""
    every: Natural = 0
    """Steps between evaluations in training; 0 evaluates at the end only."""
    samplers: list[Literal["deterministic", "stochastic"]] = field(default_factory=lambda: ["deterministic"])
    """How pictures are painted: without sampling noise, or with the sampler's in every step. The first writes
    ``eval.json``, every other ``eval_<sampler>.json``."""
    samples: Natural = 0
    """Answers that are also drawn for each held-out prompt, at the policies' own temperature, and measured beside the
    greedy one; 0 draws none."""
    metrics: list[Text] = field(default_factory=lambda: ["auto"])
    """pyiqa full-reference metrics that are measured and never rewarded; watched where ``every`` is above 0. ``auto``
    is PSNR, SSIM, GMSD, FSIM and VSI where pictures are painted, else none. Only pictures with a truth are measured."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    """For all that is inside, too."""

    name: Text = "run"
    """Run name; everything is written to ``<output_dir>/<name>``."""
    output_dir: FilePath = "runs"
    """Folder of all runs."""
    seed: Whole = 0
    """Seed of data, sampling and initialisation."""
    deterministic: Flag = False
    """Fixed batches in id order: the same numbers to the last bit on every CPU run, slower."""
    resume: Flag = False
    """Go on from the newest checkpoint of the run directory."""
    num_steps: Count = 20
    """GRPO steps."""
    prompts_per_step: Count = 4
    """Prompts trained in a step; chains are ``prompts_per_step * group_size``."""
    group_size: Annotated[Whole, Field(ge=2)] = 8
    """Chains G sampled for each prompt; at least 2."""
    updates_per_batch: Count = 1
    """Optimizer steps a batch is split into, by group."""
    algorithm: Text = ""
    """Named methods whose settings lie under this file's keys, e.g. ``dapo+mix_grpo`` (``configs.algorithms``)."""
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    """From scores to advantages."""
    overlong: Literal["train", "punish", "mask"] = "train"
    """What becomes of text blocks that (nearly) ran out of tokens: nothing, a soft penalty over the last fifth
    of their room, or their actions are not trained (DAPO)."""
    max_staleness: Natural = 0
    """Steps that are sampled ahead while the learner works, hence how many versions old the weights may be that wrote
    what is trained. 0 is on-policy; 1 hides the shorter of rollout and update; more evens out steps of unequal length,
    for older data."""
    max_refills: Natural = 2
    """Extra prompts per step, in units of ``prompts_per_step``, to replace groups without spread."""
    max_invalid_frac: Share = 0.2
    """Share of a step's chains that may lose a score before the run stops, 0..1."""
    alarm_window: Natural = 50
    """Steps over which trends are tested: an alarm goes off where the trained total rises and a watched metric falls.
    Larger finds slower hacking, later; 0 never looks."""
    on_alarm: Literal["log", "stop"] = "log"
    """What an alarm does: a metric, a log line and a place in the report; or it also saves and ends the run."""
    save_every: Count = 10
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Newest checkpoints kept."""
    trackers: list[Text] = field(default_factory=list)
    """Where metrics, chains and configuration go beside the run directory: ``tensorboard``, ``wandb``, ``mlflow``, or
    ``package.module:Class``; each is set up by its own environment variables (``docs/observing.md``)."""
    scale: Annotated[Count, Field(le=16)] = 4
    """Output size over the degraded photo's size."""
    num_runners: Workers = 1
    """Actors that guide chains."""
    plugins: list[FilePath] = field(default_factory=list)
    """Folders of your own modules, importable here and on all nodes; a folder that is a package is one module."""
    ray_address: Text = ""
    """A running Ray cluster to join; empty starts a private one on this machine."""
    colocate: Flag = False
    """Learner rank i and rollout worker i of a policy share ``num_gpus`` and take turns: the worker sleeps while
    the rank learns, and the rank's state is on the host while the worker samples. Fewer GPUs, more waiting."""
    gpus_per_node: Annotated[Count, Field(le=1024)] = 8
    """GPUs of a machine: a plan's bundles of GPUs are laid out over machines of this size."""
    gpu_gib: Annotated[Number, Field(ge=1, le=4096)] = 80.0
    """Memory of a GPU, GiB: what the plan measures its estimates against."""
    storage_path: FilePath = ""
    """Where the run directory and the cold start are copied to after each checkpoint and at the end, and resumed
    from where they are not here: a folder or any URI that pyarrow opens (``s3://``, ``gs://``, ``hdfs://``,
    ``file://``). Empty copies nothing."""
    deadline_s: Annotated[Positive, Field(le=1e7)] = 600.0
    """Longest wait for any single remote call, seconds."""
    on_lost_worker: Literal["replace", "stop"] = "replace"
    """What a run does that loses a rollout worker, a learner rank or a host: it goes on with new ones on what is left
    (a learner from the newest checkpoint), or ends and says who was lost. Reward workers are always replaced."""
    bucket_mib: Annotated[Count, Field(le=4096)] = 64
    """Size of a weight bucket, MiB."""
    chain: dict[str, BlockConfig] = field(default_factory=dict)
    """Blocks in the order they are written."""
    policies: dict[str, PolicyConfig] = field(default_factory=dict)
    """Policies by name."""
    rewards: dict[str, RewardConfig] = field(default_factory=dict)
    """Rewards by name."""
    data: DataConfig = field(default_factory=Photographs)
    """What is asked: photographs and how they are degraded, prompts from a file, or a source of your own."""
    coldstart: ColdstartConfig = field(default_factory=ColdstartConfig)
    """Supervised start."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Held-out evaluation."""
