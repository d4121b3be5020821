"""`cueline models train`: from a data folder to a built, calibrated and verified version.

Every stage leaves its result in the work folder and is skipped when that is there, so an interrupted run continues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer

from inference.export.build import ENCODER_FILE, HEADS_FILE, RANGES_FILE, STATIC8_FILE, build_version
from inference.export.golden import SENTENCES
from inference.export.heads import Heads, load_heads, save_heads
from inference.export.scales import load_ranges, measure_ranges
from inference.export.weights import Encoder, base_model_folder, load_base_encoder, load_encoder
from inference.training.attention import layers_read
from inference.training.corpus import Corpus, labels_of, read_corpus, read_plain
from inference.training.distil import embedding_of, keep_layers
from inference.training.experts import layers_averaged
from inference.training.features import Runner, open_tokenizer
from inference.training.finetune import Settings, SharedModel, Source, as_source, finetune, softened
from inference.training.fit import (
    choose_heads,
    fit_all_experts,
    fit_attentions,
    fit_carries,
    fit_heads,
    fit_open_set,
    fit_projection,
)
from inference.training.folder import check_labels, prove, write_model_folder, write_post_processing, write_weights
from inference.training.linear import logits
from inference.training.post_processing import fit_post_processing
from inference.training.states import StateRunner
from inference.training.tasks import SCOPE_TENSOR, TASKS, FloatArray
from inference.training.vectors import VectorStore

RANGE_TEXTS_PER_TASK = 80
"""Some 600 texts settle the int8 ranges; more change the cosine in the fifth digit."""

CHAT_EVERY = 40
"""One chat line in so many joins the utterances outside of the intents."""
OUTSIDE_REPEATS = 4
"""The few utterances written to be outside weigh more than chat, which is easy to tell apart."""

SOFTENED = {"sentiment": 0.5, "dissatisfied": 0.5}
"""Tasks of which a run that continues from a version believes that version in part, and how far."""

FROZEN_FILE = "frozen.npz"
TEACHER_FILE = "teacher.npz"
START_FILE = "start.npz"
TUNED_FILE = "tuned.npz"
FROZEN_HEADS_FILE = "frozen-heads.safetensors"
FINETUNE_FILE = "finetune.pt"
WORK_FILES = (FROZEN_FILE, TEACHER_FILE, START_FILE, TUNED_FILE, FROZEN_HEADS_FILE, FINETUNE_FILE)
"""What stages leave in the work folder."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """What to train, from what, to where.

    Attributes:
        data: Data folder.
        version: Folder to write, such as `model_repo/utterance/2`.
        work: Folder of intermediate results.
        settings: Of the fine-tuning. Zero steps keep the base encoder and fit heads on it; or, with `start`, keep its
            encoder, int8 ranges and heads, and fit anew what heads read among the tokens, and the calibration.
        num_threads: Of torch and onnxruntime.
        start: Version whose encoder and heads the fine-tuning continues from; None: the base model.
        layers: Layers of `start` that a student keeps, which is held to the features of all of them; empty: no student.
        is_last: Everything has been chosen: weights learn from the validate rows as well.
    """

    data: Path
    version: Path
    work: Path
    settings: Settings
    num_threads: int = 1
    start: Path | None = None
    layers: tuple[int, ...] = ()
    is_last: bool = False


def forget(work: Path) -> None:
    """Remove what stages left in a work folder, and nothing else that lies there."""
    for name in WORK_FILES:
        (work / name).unlink(missing_ok=True)


def train(run: Run, report: Report = lambda _: None) -> None:
    """Run every stage; see the module.

    Raises:
        DataError: If the data folder lacks something or is malformed.
        ExportError: If the result does not pass its own verification, or the folder serves other labels.
        ValueError: If the work folder belongs to a run with other settings, or there are no steps to learn with.
    """
    if run.layers and (run.start is None or not run.settings.steps):
        raise ValueError("a student needs a version to learn from, and steps")
    if run.is_last and run.start is None and not run.settings.steps:
        raise ValueError("nothing to learn from the validate rows without steps")
    torch.set_num_threads(run.num_threads)
    torch.manual_seed(run.settings.seed)
    corpus = read_corpus(run.data)
    if run.is_last:
        corpus = corpus.refitted()
    report(", ".join(f"{name} {len(split.fit)}" for name, split in corpus.splits.items()) + " rows to fit")
    tokenizer = _base_tokenizer()
    base = load_base_encoder()
    labels = labels_of(corpus)
    if run.start is not None:
        check_labels(run.start.parent, labels)
    write_model_folder(run.version.parent, base.dims, labels, tokenizer)

    frozen = VectorStore(Runner.for_encoder(base, tokenizer, run.num_threads), run.work / FROZEN_FILE)
    if run.start is not None and run.layers:
        teacher, heads = load_encoder(run.start / ENCODER_FILE), load_heads(run.start / HEADS_FILE)
        frozen = VectorStore(Runner.for_encoder(teacher, tokenizer, run.num_threads), run.work / TEACHER_FILE)
        encoder = keep_layers(teacher, run.layers)
    elif run.start is not None:
        encoder, heads = load_encoder(run.start / ENCODER_FILE), load_heads(run.start / HEADS_FILE)
    else:
        start_file = run.work / FROZEN_HEADS_FILE
        if not start_file.is_file():
            report("heads on the base encoder")
            save_heads(fit_heads(corpus, frozen.embed), start_file)
        encoder, heads = base, load_heads(start_file)

    if run.settings.steps:
        encoder, heads = _finetune(run, corpus, encoder, heads, frozen, report)
    heads = replace(heads, is_refitted=heads.is_refitted or run.is_last)
    heads = _with_lower_layers(run, corpus, encoder, heads, report)
    _write_version(run, corpus, encoder, heads, report)


@cache
def _base_tokenizer() -> Tokenizer:
    """Open the base model's, once: finding it reads and proves the whole model."""
    return open_tokenizer(base_model_folder() / "tokenizer.json")


def _with_lower_layers(run: Run, corpus: Corpus, encoder: Encoder, heads: Heads, report: Report) -> Heads:
    """Fit what heads read below the last layer: among the tokens, and in the means of the layers in the middle."""
    report("what heads read below the last layer")
    tokenizer = _base_tokenizer()
    read, averaged = layers_read(encoder.num_layers), layers_averaged(encoder.num_layers)
    states, middle = (StateRunner(encoder, layers, tokenizer, run.num_threads).run for layers in (read, averaged))
    embed = Runner.for_encoder(encoder, tokenizer, run.num_threads).embed
    linear, attention = fit_attentions(corpus, states, embed, heads.linear, len(read))
    return replace(
        heads,
        linear=linear,
        attention=attention,
        attention_layers=read,
        experts=fit_all_experts(corpus, middle, embed, linear, len(averaged)),
        experts_layers=averaged,
    )


def _finetune(
    run: Run, corpus: Corpus, start: Encoder, heads: Heads, frozen: VectorStore, report: Report
) -> tuple[Encoder, Heads]:
    """Tune the encoder, then take for each task the better of the head tuned with it and one fitted afterwards."""
    tokenizer = _base_tokenizer()
    sources = dict(training_sources(corpus, read_plain(run.data), frozen))
    if run.start is not None and not run.layers:
        known = VectorStore(Runner.for_encoder(start, tokenizer, run.num_threads), run.work / START_FILE)
        for name, share in SOFTENED.items():
            source = sources[name]
            sources[name] = softened(
                source, logits(known.embed(source.texts, name), heads.linear[source.tensor]), share
            )
    model = SharedModel(start, heads.linear, None if run.layers else heads.projection)
    report("fine-tuning")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        steps = bar.add_task("steps", total=run.settings.steps)

        def progress(step: int, loss: float) -> None:
            bar.update(steps, completed=step, description=f"loss {loss:.3f}")

        finetune(model, sources, tokenizer, run.settings, run.work / FINETUNE_FILE, progress)
    encoder, _, tuned = model.export(start)
    vectors = VectorStore(Runner.for_encoder(encoder, tokenizer, run.num_threads), run.work / TUNED_FILE)
    texts = list(dict.fromkeys(text for source in sources.values() for text in source.texts))
    projection = fit_projection(vectors.embed(texts, "projection"), frozen.embed(texts))
    if run.layers:
        projection = embedding_of(projection, heads.projection)
    report("heads on the tuned encoder")
    linear = choose_heads(corpus, vectors.embed, tuned)
    carry = fit_carries(corpus, vectors.embed, linear)
    scope = fit_open_set(corpus, linear["intent_logits"], vectors.embed)
    return encoder, Heads(linear, {SCOPE_TENSOR: scope}, projection, carry, is_refitted=run.is_last)


def training_sources(corpus: Corpus, plain: Sequence[str], frozen: VectorStore) -> Mapping[str, Source]:
    """Make what the fine-tuning draws from: every task, utterances outside of the intents, unlabelled texts."""
    sources = {name: as_source(split.fit, frozen.embed(split.fit.texts, name)) for name, split in corpus.splits.items()}
    chat = corpus.splits["sentiment"].fit.texts[::CHAT_EVERY]
    outside = [*corpus.outside.fit.texts * OUTSIDE_REPEATS, *chat]
    num_labels = len(corpus.splits["intent"].fit.labels)
    # Outlier exposure (Hendrycks et al., 2019): nothing is more likely than anything else.
    flat = np.full((len(outside), num_labels), 1 / num_labels, np.float32)
    sources["outside"] = Source("intent_logits", True, outside, flat, np.ones_like(flat), frozen.embed(outside))
    none = np.zeros((len(plain), 1), np.float32)
    sources["plain"] = Source("", True, plain, none, none, frozen.embed(plain, "plain"))
    return sources


def _write_version(run: Run, corpus: Corpus, encoder: Encoder, heads: Heads, report: Report) -> None:
    """Write, build, calibrate on the built int8 model, record golden answers, verify."""
    tokenizer = open_tokenizer(run.version.parent / "tokenizer.json")
    texts = [text for task in TASKS for text in corpus.splits[task.name].fit.texts[:RANGE_TEXTS_PER_TASK]]
    texts += SENTENCES
    ids = {text: tokenizer.encode(text).ids for text in texts}
    if run.start is not None and not run.settings.steps:
        ranges = load_ranges(run.start / RANGES_FILE)  # the same encoder: its answers stay what they were
    else:
        report("int8 ranges")
        ranges = measure_ranges(encoder, [np.array(row, np.int32) for row in ids.values()])
    write_weights(run.version, encoder, heads, ranges, is_tuned=run.settings.steps > 0 or run.start is not None)
    build_version(run.version, report)
    report("calibration")
    runner = Runner.for_file(run.version / STATIC8_FILE, tokenizer, run.num_threads)

    def logits(texts: Sequence[str], outputs: Sequence[str]) -> Mapping[str, FloatArray]:
        return runner.run(texts, outputs)

    write_post_processing(run.version, fit_post_processing(corpus, logits))
    prove(run.version, tokenizer, encoder.num_layers, report)
