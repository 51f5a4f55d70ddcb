"""FILE THRESHOLD in, the CPU seconds of datasketch's MinHash LSH over the file's texts out; runs without the project.

As its documentation builds it: 3-grams, a MinHash of as many permutations as ours, each line queried, then inserted.
"""

import json
import sys
import time

from datasketch import MinHash, MinHashLSH


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    start = time.process_time()
    index = MinHashLSH(threshold=float(sys.argv[2]), num_perm=60)
    for number, text in enumerate(texts):
        minhash = MinHash(num_perm=60)
        grams = {text[i : i + 3] for i in range(len(text) - 2)} or {text}
        minhash.update_batch([gram.encode() for gram in grams])
        index.query(minhash)
        index.insert(str(number), minhash)
    print(time.process_time() - start)


if __name__ == "__main__":
    main()
