"""Coverage-guided fuzzing of one target: `python tests/fuzz/fuzzing.py TARGET [--seconds N] [--keep FOLDER]`.

A target is a module beside this one with

    def one(data: bytes) -> None       raises what no reader may raise, or AssertionError where a promise is broken
    WORDS: tuple[object, ...]          what means something there: libFuzzer's dictionary is made of its texts
    def grown(text: str) -> Iterator[bytes]    inputs with a long text wherever one may stand
    def seeds() -> Mapping[str, bytes]         (optional) inputs to begin with that are signed: made anew each time
    MUTATE: Mutate (optional)          a mutation that knows the input's structure, tried every other time

and other seeds in corpus/<target>/. Only our own modules are instrumented: what libraries do with an input is not
searched for. The seed is fixed, so that two runs look at the same inputs as far as they get. Exit codes: 0 nothing
found, 77 found (as libFuzzer has it), 3 no atheris here. A found input is written to FOLDER and printed: give it a
name and move it to the corpus, where every run of the unit tests reads it again (test_corpus.py).
"""

import argparse
import importlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

HERE: Final = Path(__file__).resolve().parent
CORPUS: Final = HERE / "corpus"

#: Bytes of the longest input. Envoy lets 60 KiB of headers through; what is special about long inputs is asked for
#: by test_growth.py, and short ones are searched faster.
LONGEST: Final = 4096
#: Seconds of our own processor time that one input of at most 64 KiB may take, instrumented or not. A reader that
#: takes quadratic time needs minutes.
LIMIT: Final = 5.0
#: Megabytes of the whole process.
_MEMORY: Final = 2048
_RECURSION_LIMIT: Final = 1_000
_INSTRUMENTED: Final = ["mpp_authz", "mpp_operator"]

Mutate = Callable[[bytes, random.Random], bytes]


def targets() -> tuple[str, ...]:
    """Every target there is: who has seeds."""
    return tuple(sorted(folder.name for folder in CORPUS.iterdir() if folder.is_dir()))


def load(name: str) -> ModuleType:
    """The target's module. Not instrumented, unless atheris sees to it."""
    target = importlib.import_module(name)
    # Libraries of payers raise it when they are imported, and nested input would end the process (server.py).
    sys.setrecursionlimit(_RECURSION_LIMIT)
    return target


def seeds(name: str) -> dict[str, bytes]:
    """Every input to begin with, and every one that was found, by name."""
    files = {path.name: path.read_bytes() for path in sorted((CORPUS / name).iterdir())}
    return files | dict(getattr(load(name), "seeds", dict)())


def held(target: ModuleType, data: bytes) -> None:
    """One input against every promise of the target, and against the time it may take.

    Raises:
        AssertionError: a promise is broken.
        Exception: whatever the code under test raised and may not raise.
    """
    began = time.thread_time()
    target.one(data)
    took = time.thread_time() - began
    assert took < LIMIT, f"expected an answer within {LIMIT:g} s of processor time, got it after {took:.1f} s"


def dictionary(words: Iterable[object]) -> str:
    """libFuzzer's dictionary of the texts among `words`."""
    texts = sorted({word for word in words if isinstance(word, str)})
    quoted = ("".join(f"\\x{byte:02x}" for byte in text.encode("utf-8")) for text in texts)
    return "".join(f'"{word}"\n' for word in quoted)


def main(arguments: Sequence[str]) -> int:
    """Search until the time is over or something is found. Does not return: libFuzzer ends the process."""
    parser = argparse.ArgumentParser(prog="fuzzing.py", description="Fuzz one target.")
    parser.add_argument("target", choices=targets())
    parser.add_argument("--seconds", type=int, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default: 1)")
    parser.add_argument("--keep", type=Path, help="folder for what is found and learnt (default: a temporary one)")
    options = parser.parse_args(arguments)
    try:
        import atheris  # type: ignore[import-untyped]  # it ships none
    except ImportError:
        print(
            "fuzzing: expected atheris, found none; its wheels are for Linux on x86-64 with Python 3.11 to 3.13",
            file=sys.stderr,
        )
        return 3
    with atheris.instrument_imports(include=_INSTRUMENTED):
        target = load(options.target)
    with tempfile.TemporaryDirectory(prefix="mpp-fuzz-") as temporary:
        keep = options.keep or Path(temporary)
        learnt = keep / "learnt" / options.target
        learnt.mkdir(parents=True, exist_ok=True)
        begun = keep / "seeds" / options.target
        begun.mkdir(parents=True, exist_ok=True)
        for name, data in seeds(options.target).items():
            (begun / name).write_bytes(data)
        words = keep / f"{options.target}.dict"
        words.write_text(dictionary(target.WORDS))
        mutate: Mutate | None = getattr(target, "MUTATE", None)

        def mutated(data: bytes, most: int, seed: int) -> bytes:
            chosen = random.Random(seed)
            if mutate is not None and chosen.random() < 0.5:
                found = mutate(data, chosen)
                if found and len(found) <= most:
                    return found
            changed: bytes = atheris.Mutate(data, most)
            return changed

        atheris.Setup(
            [
                "fuzzing",
                f"-max_total_time={options.seconds}",
                f"-seed={options.seed}",
                f"-max_len={LONGEST}",
                f"-timeout={int(LIMIT) * 4}",
                f"-rss_limit_mb={_MEMORY}",
                f"-artifact_prefix={keep}/{options.target}-",
                "-print_final_stats=1",
                f"-dict={words}",
                str(learnt),
                str(begun),
            ],
            lambda data: held(target, data),
            custom_mutator=mutated,
        )
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
