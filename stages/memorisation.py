"""Training lines in, the longest stretch that a reply copies out: a suffix automaton.

Blumer et al., "The smallest automaton recognizing the subwords of a text" (1985).
"""

from collections.abc import Iterable


class SuffixAutomaton:
    """All substrings of some lines: building it and asking it take time linear in the characters."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._edges: list[dict[str, int]] = [{}]
        self._link = [-1]
        self._length = [0]
        self._last = 0
        for line in dict.fromkeys(lines):
            for char in line + "\0":
                self._append(char)

    def longest(self, text: str) -> int:
        """Length of the longest substring of `text` that stands in one of the lines."""
        state = matched = best = 0
        for char in text.replace("\0", "\1"):
            while state and char not in self._edges[state]:
                state = self._link[state]
                matched = self._length[state]
            if char in self._edges[state]:
                state, matched = self._edges[state][char], matched + 1
            best = max(best, matched)
        return best

    def _append(self, char: str) -> None:
        current = self._add({}, self._length[self._last] + 1, 0)
        state = self._last
        while state != -1 and char not in self._edges[state]:
            self._edges[state][char] = current
            state = self._link[state]
        if state != -1:
            self._link[current] = self._split(state, char)
        self._last = current

    def _split(self, state: int, char: str) -> int:
        """The state that `char` leads to from `state`, cloned first if longer strings end in it too."""
        target = self._edges[state][char]
        if self._length[target] == self._length[state] + 1:
            return target
        clone = self._add(dict(self._edges[target]), self._length[state] + 1, self._link[target])
        while state != -1 and self._edges[state].get(char) == target:
            self._edges[state][char] = clone
            state = self._link[state]
        self._link[target] = clone
        return clone

    def _add(self, edges: dict[str, int], length: int, link: int) -> int:
        self._edges.append(edges)
        self._length.append(length)
        self._link.append(link)
        return len(self._edges) - 1
