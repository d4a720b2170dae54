"""Count the words of a real text, with a shuffle in which machines call each other directly.

The text is the source of the driver's standard library. The driver hands out batches of files, by
what is in them: machines elsewhere have files of their own. A machine counts the words of a batch
and sends each word's count to the machine that owns the word, which it calls itself: the counts
never pass through the driver. In the end each machine knows the totals of its own words, and the
driver asks for the commonest::

    python examples/wordcount.py --machines 4 --check
"""

import argparse
import re
import sysconfig
import threading
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import bigmachine as bm

WORD = re.compile(r"[a-z]+")


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Count the words of these texts, in lower case."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(WORD.findall(text.lower()))
    return counts


def read(paths: Iterable[str]) -> list[str]:
    """Read these files, whatever is no text in them."""
    return [Path(path).read_text("utf-8", "replace") for path in paths]


class WordCount:
    """Maps texts to counts, and keeps the totals of the words that this machine owns."""

    def __init__(self) -> None:
        self.peers: list[bm.Machine] = []

    def init(self, cluster: bm.Cluster) -> None:
        self.lock = threading.Lock()  # made here: a lock does not travel
        self.totals: Counter[str] = Counter()

    def meet(self, peers: list[bm.Machine]) -> None:
        """Learn who owns which words: machines passed as arguments arrive ready to call."""
        self.peers = peers

    def map(self, texts: list[str]) -> int:
        """Count these texts and hand each word to its owner; return how many words there were."""
        # Python's own hash() differs between interpreters, so the owner is found by a checksum.
        shares: list[Counter[str]] = [Counter() for _ in self.peers]
        for word, n in count_words(texts).items():
            shares[zlib.crc32(word.encode()) % len(shares)][word] = n
        calls = [p.call(WordCount.add, s) for p, s in zip(self.peers, shares, strict=True)]
        for call in calls:
            call.result()
        return sum(share.total() for share in shares)

    def add(self, share: Counter[str]) -> None:
        """Add another machine's counts of our words."""
        with self.lock:
            self.totals.update(share)

    def summary(self, n: int) -> tuple[int, int, list[tuple[str, int]]]:
        """Return how many words, how many distinct ones, and the ``n`` commonest with counts."""
        return self.totals.total(), len(self.totals), self.totals.most_common(n)


def library_sources() -> list[str]:
    """The installed standard library's Python files, without what was installed on top."""
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "dist-packages", "test"}
    paths = (p for p in root.rglob("*.py") if not skipped & set(p.relative_to(root).parts))
    return sorted(str(path) for path in paths)


def check(paths: list[str], total: int, top: list[tuple[str, int]]) -> None:
    """Count again in this process and compare."""
    counts = count_words(read(paths))
    if total != counts.total() or any(counts[word] != n for word, n in top):
        raise SystemExit("the machines' counts differ from a count in one process")
    print("checked against a count in one process")


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the words of the standard library.")
    parser.add_argument("--machines", type=int, default=2)
    parser.add_argument("--files", type=int, help="count this many files only")
    parser.add_argument("--batch", type=int, default=16, help="files handed out at a time")
    parser.add_argument("--check", action="store_true", help="compare with one process")
    bm.driver.add_arguments(parser)
    args = parser.parse_args()

    with bm.driver.start(args) as cluster:
        paths = library_sources()[: args.files]
        batches = (read(paths[i : i + args.batch]) for i in range(0, len(paths), args.batch))
        machines = cluster.start(args.machines, services={"Words": WordCount()}).running().result()
        for met in machines.call(WordCount.meet, list(machines)):
            met.result()
        mapped = sum(machines.map(WordCount.map, batches, ordered=False))
        summaries = [call.result() for call in machines.call(WordCount.summary, 10)]

    top = Counter(dict(pair for _, _, words in summaries for pair in words)).most_common(10)
    for word, n in top:
        print(f"{n:9,} {word}")
    total, distinct = sum(s[0] for s in summaries), sum(s[1] for s in summaries)
    print(f"{total:,} words, {distinct:,} distinct, in {len(paths):,} files")
    if mapped != total:
        raise SystemExit(f"{mapped:,} words were sent, {total:,} arrived")
    if args.check:
        check(paths, total, top)


if __name__ == "__main__":
    main()
