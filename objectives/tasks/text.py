"""Characters of Python's own standard library: a language model that needs no download.

A small causal transformer (Vaswani et al. 2017, pre-norm as GPT-2) predicts the next character of Python source. The
files are those of a fixed list that this interpreter ships; they are split by file. They differ between patch
releases of Python: :attr:`Text.manifest` gives their hashes, so that a result says what it was measured on.
"""

from __future__ import annotations

import hashlib
import math
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mobo_mpq.errors import InputError
from mobo_mpq.objectives.tasks import cache, fitting
from mobo_mpq.objectives.tasks.bootstrap import standard_error
from mobo_mpq.seeding import derive, rng
from mobo_mpq.training.isolation import isolated

_NAMES = {
    "train": (
        "_pydecimal argparse ast base64 bdb calendar code codecs compileall configparser contextlib copy csv "
        "dataclasses datetime difflib dis doctest fractions functools gettext getpass glob gzip heapq inspect "
        "ipaddress linecache locale mailbox mimetypes modulefinder ntpath numbers opcode optparse os pdb pickle "
        "pickletools pkgutil platform plistlib posixpath pprint profile py_compile pydoc queue quopri random reprlib "
        "sched selectors shelve shlex shutil site smtplib socket socketserver ssl stat string subprocess symtable "
        "tarfile textwrap threading timeit token trace traceback turtle types typing uuid webbrowser zipfile zipimport"
    ),
    "val": "_pyio bisect cmd copyreg enum ftplib keyword secrets statistics tokenize weakref",
    "test": "_strptime abc colorsys fnmatch graphlib hmac imaplib pathlib pstats tempfile wave",
}
FILES = {split: tuple(names.split()) for split, names in _NAMES.items()}
"""Modules of each split. Packages in some releases, absent in others: those that are there as one file are read."""

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
OTHER = len(ALPHABET)  # one symbol for all further characters
SYMBOLS = OTHER + 1


@dataclass(frozen=True, slots=True)
class Config:
    """What the data and the float network depend on.

    Attributes:
        width: of the residual stream.
        heads: of the attention.
        blocks: of attention and feed-forward layers.
        context: characters per sequence.
        batch_size: sequences per batch, of fine-tunes.
        train_sequences: in the loader that fine-tunes use; the float network sees the whole text.
        eval_sequences: of the validation split, and of the test split.
        float_batch_size: sequences per batch, of the float network.
        float_steps: batches that train the float network.
        learning_rate: of the float network, at its peak.
        seed: of everything.
    """

    width: int = 64
    heads: int = 4
    blocks: int = 2
    context: int = 64
    batch_size: int = 16
    train_sequences: int = 2048
    eval_sequences: int = 1024
    float_batch_size: int = 32
    float_steps: int = 2000
    learning_rate: float = 4e-3
    seed: int = 0


class Attention(nn.Module):
    """Causal multi-head attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width)
        """Mix each position with those before it."""
        batch, time, width = x.shape
        query, key, value = self.qkv(x).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        y: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, time, width))
        return y


class Block(nn.Module):
    """Attention, then a feed-forward layer of four times the width, each on a normalised copy of the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width)
        """Add what each part has to say."""
        x = x + self.attention(self.norm1(x))
        y: Tensor = self.contract(F.relu(self.expand(self.norm2(x))))
        return x + y


class TextNet(nn.Module):
    """A causal transformer over characters; four quantizable layers per block, and the head."""

    def __init__(self, width: int = 64, heads: int = 4, blocks: int = 2, context: int = 64) -> None:
        super().__init__()
        self.symbols = nn.Embedding(SYMBOLS, width)
        self.positions = nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, SYMBOLS)

    def forward(self, ids: Tensor) -> Tensor:  # (batch, time) -> (batch, time, symbols)
        """Logits of the next character after each position."""
        x = self.symbols(ids) + self.positions[: ids.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def encode(text: str) -> NDArray[np.int64]:
    """Symbols of a text."""
    table = {character: index for index, character in enumerate(ALPHABET)}
    return np.array([table.get(character, OTHER) for character in text], dtype=np.int64)


def next_character_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy in nats per character; logits ``(batch, time, symbols)``, target ``(batch, time)``."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


class Text:
    """The task ``text``: bits per character of unseen files; less is better."""

    metric_name = "bits_per_char"
    direction = "minimize"
    loss = staticmethod(next_character_loss)

    def __init__(self, config: Config | None = None, library: Path | None = None) -> None:
        self.config = config or Config()
        self.library = library or Path(sysconfig.get_path("stdlib"))
        self._sources = {split: self._read(split) for split in FILES}

    def _read(self, split: str) -> dict[str, bytes]:
        paths = [self.library / f"{name}.py" for name in FILES[split]]
        found = {path.name: path.read_bytes() for path in paths if path.is_file()}
        if sum(map(len, found.values())) < 100 * self.config.context:
            raise InputError(
                f"the {split} split of task 'text' found {len(found)} of {len(paths)} files in {self.library}; "
                "expected the source of Python's standard library: use an interpreter that ships it"
            )
        return found

    @property
    def manifest(self) -> dict[str, str]:
        """``split/file`` -> SHA-256 of each file that is read. To be recorded; no value is expected."""
        return {
            f"{split}/{name}": hashlib.sha256(content).hexdigest()
            for split, files in self._sources.items()
            for name, content in files.items()
        }

    def _symbols(self, split: str) -> NDArray[np.int64]:
        files = self._sources[split].values()
        return np.concatenate([encode(content.decode("utf-8", errors="replace")) for content in files])

    def _loader(self, split: str, sequences: int, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        """Sequences at even distances."""
        symbols, length = self._symbols(split), self.config.context + 1
        starts = np.linspace(0, len(symbols) - length, sequences).astype(np.int64)
        rows = torch.tensor(symbols[starts[:, None] + np.arange(length)])
        generator = torch.Generator().manual_seed(derive(self.config.seed, "text", split, "order"))
        data = TensorDataset(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
        return DataLoader(data, batch_size=batch_size, shuffle=shuffle, generator=generator)

    @cached_property
    def train(self) -> DataLoader[Any]:
        """Batches for fine-tunes, in a new order on each pass."""
        return self._loader("train", self.config.train_sequences, self.config.batch_size, shuffle=True)

    @cached_property
    def val(self) -> DataLoader[Any]:
        """What a search scores on."""
        return self._loader("val", self.config.eval_sequences, 128)

    @cached_property
    def test(self) -> DataLoader[Any]:
        """What the Pareto set is scored on, once."""
        return self._loader("test", self.config.eval_sequences, 128)

    @cached_property
    def example(self) -> Tensor:  # (1, context)
        """One sequence."""
        ids: Tensor = self.val.dataset[0][0]
        return ids[None]

    def _network(self) -> TextNet:
        return TextNet(self.config.width, self.config.heads, self.config.blocks, self.config.context)

    def model(self) -> nn.Module:
        """The trained float network; trained on first use, in about a minute on one thread."""
        described = {"config": asdict(self.config), "manifest": self.manifest}
        state = cache.cached_state("text", cache.digest(described, __file__, fitting.__file__), self._train)
        with isolated(self.config.seed):  # fresh weights are drawn from the global generator
            network = self._network()
        network.load_state_dict(state)
        return network.eval()

    def _train(self) -> dict[str, Tensor]:
        with isolated(derive(self.config.seed, "text", "float"), threads=1):
            network = self._network()
            steps = self.config.float_steps
            fitting.fit(network, self._float_batches(), next_character_loss, steps, self.config.learning_rate, 0.01)
        return network.state_dict()

    def _float_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        symbols, config = self._symbols("train"), self.config
        stream = rng(config.seed, "text", "float")
        window = np.arange(config.context + 1)
        for _ in range(config.float_steps):
            starts = stream.integers(0, len(symbols) - config.context - 1, size=config.float_batch_size)
            rows = torch.tensor(symbols[starts[:, None] + window])
            yield rows[:, :-1], rows[:, 1:]

    def metric(self, model: nn.Module, loader: Iterable[Any]) -> float:
        """Mean cross-entropy of the next character, in bits."""
        return float(_bits(model, loader).mean())

    def measure(self, model: nn.Module, loader: Iterable[Any]) -> tuple[float, float]:
        """Bits per character, and their standard error by bootstrap over sequences."""
        bits = _bits(model, loader)
        return float(bits.mean()), standard_error(bits)


@torch.no_grad()
def _bits(model: nn.Module, loader: Iterable[Any]) -> NDArray[np.float64]:  # (sequences,), each a mean
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    bits = []
    for ids, target in loader:
        nats = F.cross_entropy(model(ids.to(device)).transpose(1, 2).double(), target.to(device), reduction="none")
        bits.append(nats.mean(1).cpu() / math.log(2))
    return torch.cat(bits).numpy()
